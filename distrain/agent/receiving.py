"""What the launcher sends into the run's folder, such as a checkpoint to go on from: there whole, or not at all.

Everything is written under a hidden name and renamed. A part is written at once, so its size costs no memory. Of the
checkpoints that come, only the last one stays: those that a task writes are the task's to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable

from distrain.agent.folder import remove
from distrain.wire import FileKept, FilePart, Message, Pong, WireError

_CHECKPOINT = re.compile(r"checkpoints/step-\d+")


class Receiving:
    """`root` is where artifacts belong; None: there is no such folder, and nothing is kept. `emit` is given the
    answers, and `came` the path of each artifact that is there now.
    """

    def __init__(self, root: str | None, came: Callable[[str], None], emit: Callable[[Message], None]) -> None:
        self._root = None if root is None else os.path.realpath(root)
        self._came = came
        self._emit = emit
        self._artifact: str | None = None
        self._hidden = ""
        self._fd = -1
        self._error: str | None = None
        self._checkpoints: dict[str, tuple[int, int]] = {}
        """Those that have come: path, and what tells it from another one that takes its place."""

    def take(self, part: FilePart) -> None:
        """The next part.

        Raises:
            WireError: it is not the next of anything.
        """
        if part.begins:
            self._abandon()
            self._artifact, self._error = part.artifact, None
        elif part.artifact != self._artifact:
            raise WireError(f"a part of {part.artifact!r} is out of order")
        try:
            if self._error is None:
                self._write(part)
        except OSError as error:
            self._fail(_trouble(part.artifact, error))
        except ValueError as error:
            self._fail(f"{part.artifact!r} is not kept: {error}")
        self._emit(Pong(0))  # a Ping may wait behind many parts
        if part.ends:
            self._artifact = None
            self._emit(FileKept(part.artifact, self._error))
            if self._error is None:
                self._came(part.artifact)
                if self._root is not None and _CHECKPOINT.fullmatch(part.artifact):
                    self._thin_out(os.path.join(self._root, part.artifact))

    def _write(self, part: FilePart) -> None:
        if self._root is None:
            raise ValueError("on the launcher's own machine, tasks have the run directory itself")
        final = self._place(self._root, part.artifact)
        if part.begins:
            self._hidden = _hidden_beside(final)
        if self._fd < 0:
            place = self._place(self._hidden, part.path) if part.path else self._hidden
            _make_folder(os.path.dirname(place))
            self._fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700 if part.executable else 0o600)
        rest = memoryview(part.data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        if part.ends_file:
            fd, self._fd = self._fd, -1
            os.close(fd)
        if part.ends:
            _put_in_place(self._hidden, final)
            self._hidden = ""

    def _thin_out(self, newest: str) -> None:
        """Remove the checkpoints that came before `newest`, but for those in whose place a task has put its own."""
        for path, identity in list(self._checkpoints.items()):
            with contextlib.suppress(OSError):
                if path != newest and _identity(path) == identity:
                    gone = _hidden_beside(path)
                    os.rename(path, gone)
                    _discard(gone)
            del self._checkpoints[path]
        with contextlib.suppress(OSError):
            self._checkpoints[newest] = _identity(newest)

    def _place(self, folder: str, path: str) -> str:
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

    def _fail(self, sentence: str) -> None:
        self._abandon()
        self._error = sentence

    def _abandon(self) -> None:
        """Remove what there is of an artifact that is not whole."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
        if self._hidden:
            _discard(self._hidden)
            self._hidden = ""


def _make_folder(path: str) -> None:
    """Make it and those above it that are not there, all of them private."""
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        os.mkdir(path, 0o700)


def _put_in_place(hidden: str, final: str) -> None:
    """Nothing but a file, or an empty folder, is replaced by a rename alone."""
    replaced = ""
    if os.path.isdir(final) or (os.path.isdir(hidden) and os.path.lexists(final)):
        replaced = _hidden_beside(final)
        os.rename(final, replaced)
    os.rename(hidden, final)
    if replaced:
        _discard(replaced)


def _hidden_beside(final: str) -> str:
    folder, name = os.path.split(final)
    return os.path.join(folder, f".{name}.{os.urandom(4).hex()}")


def _identity(path: str) -> tuple[int, int]:
    """The same for as long as nothing else has its name, and nothing in it another."""
    status = os.lstat(path)
    return status.st_ino, status.st_ctime_ns


def _discard(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        remove(path)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _trouble(artifact: str, error: OSError) -> str:
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{artifact!r} does not fit on the disk there ({why}); free some space there"
    return f"{artifact!r} cannot be kept there ({why}); set the permissions there, or free some space"
