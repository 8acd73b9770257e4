"""A run directory, read back while the run goes on or long after: events as values, and files as they grow.

The other side of the sinks in `files` and `records`. Writes nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.runs.rundir import RunDir

_READ_BYTES = 1 << 20
_END_BYTES = 256 * 1024
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""As `rundir.json_text` has written them."""
_START = b'"kind":"run_started"'


class Tail:
    """What is in the file at `path` from the byte `start` on, and whatever is added. It may be there only later."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._start = start
        self._fd = -1

    def read(self) -> bytes:
        """What is new, a piece at a time; b"": nothing is."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
            os.lseek(self._fd, self._start, os.SEEK_SET)
        data = os.read(self._fd, _READ_BYTES)
        if not data and not os.fstat(self._fd).st_nlink:
            self.close()  # somebody has removed it, and it may begin anew
            self._start = 0
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Events:
    """The events of a run as they are recorded, from the last time on that a launcher took it up. `since`: that one
    came after this time (Unix seconds), and there is nothing before it has.
    """

    def __init__(self, rundir: RunDir, *, since: float | None = None) -> None:
        self._rundir = rundir
        self._since = since
        self._tail = Tail(rundir.events_file, _session_start(rundir))
        self._half = b""

    def read(self) -> list[Event]:
        """Those that are new, a piece at a time; empty: none is."""
        if self._since is not None:
            start = last_session_start(self._rundir)
            if start is None or start.time < self._since:
                return []
            self._since, self._tail = None, Tail(self._rundir.events_file, _session_start(self._rundir))
        events: list[Event] = []
        while not events and (data := self._tail.read()):
            *lines, self._half = (self._half + data).split(b"\n")
            events = list(_events_of(lines))
        return events

    def close(self) -> None:
        self._tail.close()


def last_session_start(rundir: RunDir) -> Event | None:
    """The newest `run_started`. None: no launcher has come as far."""
    with suppress(OSError), open(rundir.events_file, "rb") as file:
        file.seek(_session_start(rundir))
        return next(iter(_events_of([file.readline()])), None)
    return None


def newest_events(rundir: RunDir) -> list[Event]:
    """The last few thousand events, oldest first."""
    with suppress(OSError), open(rundir.events_file, "rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _END_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
        return list(_events_of(lines[1:] if start else lines))
    return []


def read_summary(rundir: RunDir) -> Mapping[str, Any] | None:
    """What the run came to. None: it has not ended, or its launcher was killed."""
    try:
        summary = json.loads(rundir.summary_file.read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def _session_start(rundir: RunDir) -> int:
    """Where the line of the newest `run_started` begins; 0 if there is none."""
    with suppress(OSError), open(rundir.events_file, "rb") as file:
        end, after = file.seek(0, os.SEEK_END), b""
        while end > 0:
            start = max(0, end - _READ_BYTES)
            file.seek(start)
            data = file.read(end - start) + after
            found = data.rfind(_START)
            line = data.rfind(b"\n", 0, found) if found >= 0 else -1
            if found >= 0 and (line >= 0 or start == 0):
                return start + line + 1
            # The word, or the line that it stands in, may be cut by where this piece begins.
            end, after = start, data[: max(4096, found + len(_START))]
    return 0


def _events_of(lines: Iterable[bytes]) -> Iterable[Event]:
    """Whatever is no event, as a line that is half, is passed over."""
    for line in lines:
        try:
            fields = json.loads(line)
            own = (float(fields.pop("time")), str(fields.pop("kind")), int(fields.pop("attempt")))
            yield Event(*own, fields.pop("task"), fields.pop("host"), _with_numbers(fields))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _with_numbers(value: Any) -> Any:
    if isinstance(value, str):
        return _NUMBERS.get(value, value)
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return value
