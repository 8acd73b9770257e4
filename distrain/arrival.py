"""A file or folder that arrives from another host in parts: there whole, or not at all.

Owns where its bytes go until it is whole, and how it becomes visible. What may arrive, and what is told of it, is for
agent and launcher, who both receive so. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat

from distrain.wire import FilePart

_SYNC_BYTES = 64 << 20
"""Synced this often, a large file does not keep everything else waiting at its end."""


class Arrival:
    """What is to be `artifact`, a path below `root`. Each part is written under a hidden name at once, so that its size
    costs no memory. `lasting`: each file is on the disk before the artifact is visible.

    Raises:
        ValueError: the path is none, or leads elsewhere.
    """

    def __init__(self, root: str, artifact: str, *, lasting: bool) -> None:
        self._lasting = lasting
        self._final = _place(os.path.realpath(root), artifact)
        self._hidden = hidden_beside(self._final)
        self._file = -1
        self._unsynced_bytes = 0

    def take(self, part: FilePart) -> None:
        """The next part; with the last one, the artifact is visible, in place of an earlier one.

        Raises:
            OSError: it cannot be written. Nothing is left of it.
            ValueError: the file would lie elsewhere. Nothing is left of it, either.
        """
        try:
            self._write(part)
            if part.ends:
                self._put_in_place()
        except (OSError, ValueError):
            self.abandon()
            raise

    def abandon(self) -> None:
        """Remove what there is of an artifact that is not whole. One that is whole stays."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
        discard(self._hidden)

    def _write(self, part: FilePart) -> None:
        if self._file < 0:
            place = _place(self._hidden, part.path) if part.path else self._hidden
            _make_folder(os.path.dirname(place))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(place, flags, 0o700 if part.executable else 0o600)
        rest = memoryview(part.data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._unsynced_bytes += len(part.data)
        if self._lasting and (part.ends_file or self._unsynced_bytes >= _SYNC_BYTES):
            os.fsync(self._file)
            self._unsynced_bytes = 0
        if part.ends_file:
            file, self._file = self._file, -1
            os.close(file)

    def _put_in_place(self) -> None:
        replaced = ""
        # Nothing but a file, or an empty folder, is replaced by a rename alone.
        if os.path.isdir(self._final) or (os.path.isdir(self._hidden) and os.path.lexists(self._final)):
            replaced = hidden_beside(self._final)
            os.rename(self._final, replaced)
        os.rename(self._hidden, self._final)
        if replaced:
            discard(replaced)


def hidden_beside(path: str) -> str:
    """A name for what is not whole yet, or soon will not be, that is nobody else's."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.urandom(4).hex()}")


def discard(path: str) -> None:
    """Remove a file or a folder, if it is there, also what its owner may not write or enter; else leave it."""
    import shutil

    if os.path.islink(path) or not os.path.isdir(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
        return
    for folder, folders, _ in os.walk(path):
        for name in folders:
            with contextlib.suppress(OSError):
                inside = os.path.join(folder, name)
                if stat.S_ISDIR(os.lstat(inside).st_mode):
                    os.chmod(inside, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _place(folder: str, path: str) -> str:
    """`path` in `folder`.

    Raises:
        ValueError: it is none, or leads elsewhere.
    """
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError("it does not lie in the run's folder")
    above = os.path.join(folder, *parts[:-1])
    if os.path.realpath(above) != above:
        raise ValueError("it would be written through a link")
    return os.path.join(above, parts[-1])


def _make_folder(path: str) -> None:
    """Make it and those above it that are not there, all of them private."""
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        os.mkdir(path, 0o700)
