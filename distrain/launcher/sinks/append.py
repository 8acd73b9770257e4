"""A file that grows, and what happens when it cannot. Does not know what is in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

FLUSH_EVERY_S = 0.2

_FLUSH_BYTES = 128 * 1024
_MEND_BYTES = 64 * 1024
_KEEP_BYTES = 256 * 1024
"""How much is kept for a file that cannot be written just now: a disk may have room again in a moment."""

Warn = Callable[[str], None]
"""Tells the people at the launcher a sentence."""


def mend(path: Path, *, cut: bool) -> None:
    """Let what a killed launcher has left end with a newline: a last line that is half is cut, or ends where it does.

    A file that cannot be mended stays as it is: who adds to it will say why.
    """
    with contextlib.suppress(OSError), open(path, "r+b", buffering=0) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        if not size_bytes:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        if not cut:
            file.write(b"\n")
            return
        while size_bytes:
            start = max(0, size_bytes - _MEND_BYTES)
            file.seek(start)
            newline = file.read(size_bytes - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            size_bytes = start
        file.truncate(0)


class AppendFile:
    """Bytes at the end of one file, mode 0600, in the order of writing.

    Never raises: what cannot be written is kept and tried again at the next flush. When too much is waiting, later
    writes are refused whole and counted, so what stands in the file is unbroken up to the gap. `warn` hears of the
    first trouble; `gap`, given the number of lost bytes, makes what stands in the file in their place.
    """

    def __init__(self, path: Path, warn: Warn, gap: Callable[[int], bytes]) -> None:
        self._path = path
        self._warn = warn
        self._gap = gap
        self._fd = -1
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._gap_bytes = 0
        self._failing = False
        self._lost_bytes = 0
        self._ticked_at = 0.0

    @property
    def lost_bytes(self) -> int:
        """How much is not in the file and, unless it can be written again, never will be."""
        return self._lost_bytes + (self._held_bytes if self._failing else 0)

    def write(self, data: bytes) -> None:
        if self._failing and self._held_bytes + len(data) > _KEEP_BYTES:
            self._lost_bytes += len(data)
            self._gap_bytes += len(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _FLUSH_BYTES and not self._failing:
            self.flush()

    def tick(self, time: float) -> None:
        """It is `time` now: flush, unless a tick did so in the last FLUSH_EVERY_S. The clock may have been set back."""
        if not 0 <= time - self._ticked_at < FLUSH_EVERY_S:
            self._ticked_at = time
            self.flush()

    def flush(self) -> None:
        """Everything held goes to the file, so that other programs see it."""
        if not self._held:
            return
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        written = 0
        trouble = None
        try:
            trouble = self._open()
            with memoryview(data) as view:
                while written < len(data):
                    written += os.write(self._fd, view[written:])
        except OSError as error:
            if not self._failing:
                trouble = f"cannot write {self._path}: {error.strerror}; the run goes on"
            self._failing = True
            self._held = [data[written:]]
        else:
            self._failing = False
            self._held = [self._gap(self._gap_bytes)] if self._gap_bytes else []
            self._gap_bytes = 0
        self._held_bytes = sum(map(len, self._held))
        if trouble is not None:
            # Last, when all is in order: whoever is told may write to this very file.
            self._warn(trouble)

    def close(self) -> bool:
        """Whether all that was ever written stands in the file."""
        self.flush()
        self.flush()  # the line about a gap, where one had just ended
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return not self.lost_bytes

    def _open(self) -> str | None:
        """A file that somebody removed takes bytes for ever and shows them to nobody: begin it again, and say so."""
        if self._fd >= 0 and os.fstat(self._fd).st_nlink > 0:
            return None
        trouble = None
        if self._fd >= 0:
            trouble = f"somebody removed {self._path}: what it held is gone, and it begins anew"
            os.close(self._fd)
            self._fd = -1
            os.makedirs(self._path.parent, mode=0o700, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return trouble
