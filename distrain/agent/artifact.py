"""An artifact as it is read: a file, or a folder whose files are all held open, so that it stays as it was."""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass

from distrain.wire import FilePart

PART_BYTES = 1 << 20

_HOW_TO_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

Signature = tuple[tuple[str, int, int, int], ...]
"""Tells two states of an artifact apart: path, inode, size and time of change of each of its files."""


class Vanishing(Exception):
    """Somebody is removing or replacing it."""


@dataclass
class _File:
    path: str
    fd: int
    left_bytes: int
    executable: bool


class Artifact:
    """The file or folder at `full`, all of its files opened.

    Raises:
        OSError: it is not there, or not all of it can be read.
        Vanishing: it is changing.
    """

    def __init__(self, path: str, full: str) -> None:
        self.path = path
        self.files: deque[_File] = deque()
        self._begun = False
        found = []
        before = _listed(full)
        try:
            for relative in before:
                fd = os.open(os.path.join(full, relative) if relative else full, _HOW_TO_OPEN)
                status = os.fstat(fd)
                self.files.append(_File(relative, fd, status.st_size, bool(status.st_mode & 0o100)))
                found.append((relative, status.st_ino, status.st_size, status.st_mtime_ns))
            # Whoever removes a folder takes it away whole, or takes something out of it first.
            if _listed(full) != before:
                raise Vanishing
        except BaseException:
            self.close()
            raise
        self.signature: Signature = tuple(found)

    def next_part(self) -> FilePart:
        """The next of its bytes; after the last ones everything is closed.

        Raises:
            OSError: they cannot be read.
        """
        file = self.files[0]
        data = os.read(file.fd, min(PART_BYTES, file.left_bytes))
        file.left_bytes = file.left_bytes - len(data) if data else 0  # it may have been cut meanwhile
        ends_file = not file.left_bytes
        if ends_file:
            os.close(self.files.popleft().fd)
        begins, self._begun = not self._begun, True
        return FilePart(self.path, file.path, begins, ends_file, not self.files, file.executable, data)

    def close(self) -> None:
        while self.files:
            os.close(self.files.popleft().fd)


def _listed(full: str) -> list[str]:
    """The regular files of an artifact: their paths within it, "" for the artifact itself. The rest is left out.

    Raises:
        OSError: it is not there, or cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    def is_file(path: str) -> bool:
        return stat.S_ISREG(os.lstat(path).st_mode)

    if is_file(full):
        return [""]
    return sorted(
        os.path.relpath(os.path.join(folder, name), full)
        for folder, _, names in os.walk(full, onerror=refuse)
        for name in names
        if is_file(os.path.join(folder, name))
    )
