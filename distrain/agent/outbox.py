"""What waits to be sent to the launcher: in memory first, then in an unlinked file, in the order of arrival.

A launcher that is slow or stopped costs the tasks nothing and the agent's memory no more than a fixed amount. Only
when the disk is full too does `has_room` turn false: then the tasks' pipes are left unread until there is room.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice

MEMORY_BYTES = 4 << 20
SEGMENT_BYTES = 64 << 20
"""Spilled bytes are kept in files of this size: one that has been sent is closed, and its space is free again."""

LOW_BYTES = 2 << 20
"""With less than this waiting, what can wait may be added: it goes between what cannot."""

_READ_BACK_BYTES = 1 << 20
_FRAMES_PER_WRITE = 256


class Outbox:
    """A queue of frames, made of three parts: `head` in memory, then the segments on disk, then `tail` in memory.

    `tail` holds what the disk had no room for: a few frames at most, as nobody adds more while `has_room` is false.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._head: deque[memoryview] = deque()
        self._head_bytes = 0
        self._segments: deque[_Segment] = deque()
        self._tail: deque[memoryview] = deque()
        self.closed = False

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._head or self._segments or self._tail)

    @property
    def has_room(self) -> bool:
        if self._tail:
            self._spill()
        return not self._tail

    @property
    def is_low(self) -> bool:
        """Whether little waits, or nothing ever will."""
        return not self._segments and not self._tail and self._head_bytes < LOW_BYTES

    def append(self, frame: bytes) -> None:
        if self.closed:
            return
        if self._segments or self._tail or self._head_bytes >= MEMORY_BYTES:
            self._tail.append(memoryview(frame))
            self._spill()
        else:
            self._head.append(memoryview(frame))
            self._head_bytes += len(frame)

    def send(self, fd: int) -> None:
        """Write to the non-blocking `fd` as much as it takes now.

        Raises:
            OSError: nobody reads there any more.
        """
        while True:
            self._fetch()
            if not self._head:
                return
            try:
                sent = os.writev(fd, list(islice(self._head, _FRAMES_PER_WRITE)))
            except BlockingIOError:
                return
            self._head_bytes -= sent
            while sent:
                frame = self._head.popleft()
                if sent < len(frame):
                    self._head.appendleft(frame[sent:])
                    break
                sent -= len(frame)

    def close(self) -> None:
        """Forget everything, and whatever is still to come."""
        self.closed = True
        self._head.clear()
        self._tail.clear()
        while self._segments:
            self._segments.popleft().close()

    def _fetch(self) -> None:
        """Make sure that `head` is not empty, if anything waits at all."""
        while not self._head and self:
            if self._segments:
                frame = memoryview(self._segments[0].read(_READ_BACK_BYTES))
                if self._segments[0].is_read:
                    self._segments.popleft().close()
            else:
                frame = self._tail.popleft()
            if frame:
                self._head.append(frame)
                self._head_bytes += len(frame)

    def _spill(self) -> None:
        """Move `tail` to the disk as far as there is room."""
        while self._tail:
            frame = self._tail[0]
            try:
                if not self._segments or self._segments[-1].size >= SEGMENT_BYTES:
                    self._segments.append(_Segment(self._folder))
                written = self._segments[-1].write(frame)
            except OSError:  # disk full, quota, file size limit: all mean no room, for now
                return
            if written == len(frame):
                self._tail.popleft()
            else:
                self._tail[0] = frame[written:]


class _Segment:
    """An unlinked file, written at its end and read from its start."""

    def __init__(self, folder: str | None) -> None:
        import tempfile  # not at the top: most agents never need it

        self._fd, path = tempfile.mkstemp(prefix="distrain-outbox-", dir=folder)
        os.unlink(path)
        self.size = 0
        self._read = 0

    @property
    def is_read(self) -> bool:
        """Whether all that was written has been read."""
        return self._read == self.size

    def write(self, data: memoryview) -> int:
        written = os.pwrite(self._fd, data, self.size)
        self.size += written
        return written

    def read(self, limit: int) -> bytes:
        data = os.pread(self._fd, min(limit, self.size - self._read), self._read)
        self._read += len(data)
        return data

    def close(self) -> None:
        os.close(self._fd)


def folder_on_disk() -> str | None:
    """Where spilled bytes go: `/tmp` is memory on many systems, `/var/tmp` is not. None: tempfile's own choice."""
    if "TMPDIR" in os.environ or not os.access("/var/tmp", os.W_OK | os.X_OK):
        return None
    return "/var/tmp"
