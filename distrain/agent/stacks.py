"""Where a task's threads are, told by the task itself: the file in memory that its stacks go into, and the signal.

A task that has a handler for the signal writes a byte into its file first, and empties it if it has none any more.
Nothing here waits: `take` is called when `due` has come, until it returns something.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal

from distrain.agent import processes, spawn

PATIENCE_S = 1.0
"""A task that has not written by then does not run Python at all just now."""

_STILL_S = 0.05
"""A file that has grown, and then not for so long, is whole."""
_LOOK_EVERY_S = 0.025
_MAX_BYTES = 4 << 20


class Stacks:
    """The file of one task: `fd` goes to it. The offset is shared with it, and never moved here.

    Raises:
        OSError: there can be no such file.
    """

    def __init__(self) -> None:
        self.fd = spawn.file_of(b"")
        self.due = math.inf
        """When (monotonic) to call `take`. Infinite: nothing was asked for."""
        self._begin = self._end = 0
        self._grown_at = self._late_at = math.inf

    def ask(self, pid: int, now: float) -> None:
        """Have the process `pid` tell its stacks, if it can; a stopped one goes on for that."""
        if self.due < math.inf:
            return  # the answer that is on its way answers this, too
        self._begin = self._end = os.fstat(self.fd).st_size
        self.due = now
        self._grown_at, self._late_at = math.inf, now
        if self._begin and processes.catches(pid, signal.SIGUSR2):
            self._late_at = now + PATIENCE_S
            for number in (signal.SIGUSR2, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def take(self, now: float) -> bytes | None:
        """What was told. None: it is still to come, or nobody asked. `now` infinite: no more can come."""
        if now < self.due or self.due == math.inf:
            return None
        size = os.fstat(self.fd).st_size
        if size > self._end:
            self._end, self._grown_at = size, now
        if now < min(self._grown_at + _STILL_S, self._late_at):
            self.due = now + _LOOK_EVERY_S
            return None
        self.due = math.inf
        return os.pread(self.fd, max(0, min(size - self._begin, _MAX_BYTES)), self._begin)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
