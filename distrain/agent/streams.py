"""A task's two streams: the pipes that carry them, and the events that lines of JSON stand for.

Owns how much is read at a time. What is read is passed on whole: nothing is looked for in printed bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import termios
import time
from collections.abc import Callable, Iterator

from distrain.wire import AgentNote, Message, TaskEvent

PIPE_BYTES = 1 << 20
MAX_EVENT_BYTES = 1 << 20

_BUSY_BYTES = 65536
_PAUSE_S = 0.01
_NOTES_PER_TASK = 10


class Pipe:
    """The reading end of a pipe whose writing end goes to a task.

    After a small read the pipe is left alone until `resume_at` (monotonic), so that a task that prints line by line
    costs a hundred messages a second and not one a line.
    """

    def __init__(self, consume: Callable[[bytes], None], finish: Callable[[], None] = lambda: None) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.is_open = True
        self.resume_at = 0.0
        self._consume = consume
        self._finish = finish

    def give_away(self) -> None:
        """Close our copy of the writing end: the task has its own now, or never will."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def read(self) -> int:
        """Pass on what one read gives; its size. At the end of the stream, the pipe closes."""
        if not self.is_open:
            return 0
        try:
            data = os.read(self.fd, PIPE_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self.close()
            return 0
        self.resume_at = time.monotonic() + _PAUSE_S if len(data) < _BUSY_BYTES else 0.0
        self._consume(data)
        return len(data)

    def drain(self) -> None:
        """Pass on all that is in the pipe at this moment, and no more: somebody may go on writing for ever."""
        if not self.is_open:
            return
        waiting = bytearray(4)
        fcntl.ioctl(self.fd, termios.FIONREAD, waiting)
        left: int = struct.unpack("i", waiting)[0]
        while left > 0 and (size := self.read()):
            left -= size
        self.read()  # it may have reached its end, which completes a last line
        self.resume_at = 0.0

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.give_away()
            os.close(self.fd)
            self._finish()


class EventLines:
    """Turns one task's event stream, cut anywhere, into messages. A line that is no event becomes a note."""

    def __init__(self, task: str, attempt: int) -> None:
        self._task = task
        self._attempt = attempt
        self._held = bytearray()
        self._skipping = False
        self._notes = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = bytes(self._held) + end
            self._held.clear()
            if not self._skipping:
                yield from self._line(line)
            self._skipping = False
        if not self._skipping:
            self._held += rest
        if len(self._held) > MAX_EVENT_BYTES:
            yield from self._note(f"sent an event of more than {MAX_EVENT_BYTES >> 20} MiB, which was dropped")
            self._held.clear()
            self._skipping = True

    def finish(self) -> Iterator[Message]:
        """The stream has ended: a last line without its newline counts."""
        if self._held:
            yield from self.feed(b"\n")

    def _line(self, line: bytes) -> Iterator[Message]:
        if not line.strip():
            return
        if len(line) > MAX_EVENT_BYTES:
            yield from self._note(f"sent an event of more than {MAX_EVENT_BYTES >> 20} MiB, which was dropped")
            return
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            kind = event.pop("kind")
            yield TaskEvent(self._task, self._attempt, time.time(), kind, event)
        else:
            yield from self._note(f"sent a line that is no event, which was dropped: {line[:80]!r}")

    def _note(self, what: str) -> Iterator[Message]:
        self._notes += 1
        if self._notes <= _NOTES_PER_TASK:
            last = "; more of this kind will not be told" if self._notes == _NOTES_PER_TASK else ""
            yield AgentNote("warning", f"{self._task} {what}{last}")
