"""What the launcher sends into the run's folder, such as a checkpoint to go on from: there whole, or not at all.

Of the checkpoints that come, only the last one stays: those that a task writes are the task's to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable

from distrain.arrival import Arrival, discard, hidden_beside
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
        self._arrival: Arrival | None = None
        self._error: str | None = None
        self._checkpoints: dict[str, tuple[int, int]] = {}
        """Those that have come: path, and what tells it from another one that takes its place."""

    def take(self, part: FilePart) -> None:
        """The next part.

        Raises:
            WireError: it is not the next of anything.
        """
        if part.begins:
            if self._arrival is not None:
                self._arrival.abandon()
            self._artifact, self._error = part.artifact, None
            self._arrival = self._begun(part.artifact)
        elif part.artifact != self._artifact:
            raise WireError(f"a part of {part.artifact!r} is out of order")
        if self._arrival is not None:
            try:
                self._arrival.take(part)
            except (OSError, ValueError) as error:
                self._arrival, self._error = None, _trouble(part.artifact, error)
        self._emit(Pong(0))  # a Ping may wait behind many parts
        if part.ends:
            self._artifact = self._arrival = None
            self._emit(FileKept(part.artifact, self._error))
            if self._error is None:
                self._came(part.artifact)
                if self._root is not None and _CHECKPOINT.fullmatch(part.artifact):
                    self._thin_out(os.path.join(self._root, part.artifact))

    def _begun(self, artifact: str) -> Arrival | None:
        """The arrival of `artifact`; None, and why, where it cannot be."""
        if self._root is None:
            self._error = (
                f"{artifact!r} is not kept: on the launcher's own machine, tasks have the run directory itself"
            )
            return None
        try:
            return Arrival(self._root, artifact, lasting=False)
        except ValueError as error:
            self._error = _trouble(artifact, error)
            return None

    def _thin_out(self, newest: str) -> None:
        """Remove the checkpoints that came before `newest`, but for those in whose place a task has put its own."""
        for path, identity in list(self._checkpoints.items()):
            with contextlib.suppress(OSError):
                if path != newest and _identity(path) == identity:
                    gone = hidden_beside(path)
                    os.rename(path, gone)
                    discard(gone)
            del self._checkpoints[path]
        with contextlib.suppress(OSError):
            self._checkpoints[newest] = _identity(newest)


def _identity(path: str) -> tuple[int, int]:
    """The same for as long as nothing else has its name, and nothing in it another."""
    status = os.lstat(path)
    return status.st_ino, status.st_ctime_ns


def _trouble(artifact: str, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"{artifact!r} is not kept: {error}"
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{artifact!r} does not fit on the disk there ({why}); free some space there"
    return f"{artifact!r} cannot be kept there ({why}); set the permissions there, or free some space"
