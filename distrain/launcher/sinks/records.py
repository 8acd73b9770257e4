"""What happened, for programs: `events.jsonl` holds every event, `metrics.jsonl` the numbers of the training."""

from __future__ import annotations

from distrain.launcher.events import Event
from distrain.launcher.runs.rundir import RunDir, json_text
from distrain.launcher.sinks.append import AppendFile, Warn, mend

_METRICS_KEYS = ("epoch", "step", "split", "metrics", "examples_per_s")


class Records:
    """One JSON object a line, after those of attempts before. Numbers that are none are strings, as
    `rundir.json_text` has it.
    """

    def __init__(self, rundir: RunDir, warn: Warn) -> None:
        for path in (rundir.events_file, rundir.metrics_file):
            mend(path, cut=True)
        # A gap leaves no mark: whole lines are missing, and every line that stands is valid.
        self._events = AppendFile(rundir.events_file, warn, _no_mark)
        self._metrics = AppendFile(rundir.metrics_file, warn, _no_mark)

    def output(self, time: float, task: str, data: bytes) -> None:
        """Output is for the logs."""

    def event(self, event: Event) -> None:
        self._events.write(_line(event.to_json()))
        if event.kind == "metrics":
            line = {"time": event.time, "attempt": event.attempt}
            self._metrics.write(_line(line | {key: event.data.get(key) for key in _METRICS_KEYS}))
        if event.kind in ("run_started", "checkpoint"):
            # What a run that is killed goes on from must not stand there before what led to it does.
            self._events.flush()
            self._metrics.flush()

    def tick(self, time: float) -> None:
        self._events.tick(time)
        self._metrics.tick(time)

    def close(self) -> bool:
        whole = [self._events.close(), self._metrics.close()]
        return all(whole)


def _line(value: dict[str, object]) -> bytes:
    return json_text(value).encode("utf-8", "backslashreplace") + b"\n"


def _no_mark(lost_bytes: int) -> bytes:
    return b""
