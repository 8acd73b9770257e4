"""What happened in a run, as values: the one kind of thing that `decide`, the sinks and `events.jsonl` all see."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_EPOCH = time.time() - time.clock_gettime(_CLOCK)


def now() -> float:
    """Unix seconds that only ever go on, whatever becomes of the machine's clock meanwhile."""
    return _EPOCH + time.clock_gettime(_CLOCK)


@dataclass(frozen=True)
class Event:
    """One line of `events.jsonl`. `time` is Unix seconds on the launcher's clock.

    `kind` is one of the launcher's own, or what a task said of itself; docs/events.md tells all of them, with what
    is in `data`.
    """

    time: float
    kind: str
    attempt: int = 0
    task: str | None = None
    host: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "kind": self.kind,
            "task": self.task,
            "host": self.host,
            "attempt": self.attempt,
            **{key: value for key, value in self.data.items() if key not in _OWN},
        }


_OWN = frozenset({"time", "kind", "task", "host", "attempt"})

_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))
_OPTIONAL_COUNT = (int, type(None))
_OPTIONAL_TEXT = (str, type(None))
_Fields = Mapping[str, type | tuple[type, ...]]
_OF_TASKS: Mapping[str, _Fields] = {
    "phase": {"phase": str},
    "ready": {"versions": dict},
    "started": {"epochs": int, "steps_per_epoch": int, "first_step": int, "batch_size": int},
    "progress": {
        "epoch": _OPTIONAL_COUNT,
        "step": int,
        "examples_per_s": _OPTIONAL_NUMBER,
        "epochs": _OPTIONAL_COUNT,
        "steps": _OPTIONAL_COUNT,
    },
    "metrics": {"epoch": _OPTIONAL_COUNT, "step": int, "split": str, "metrics": dict},
    "pulse": {"step": int, "doing": str, "for_s": _NUMBER},
    "checkpoint": {"path": str, "step": int, "seconds": _NUMBER},
    "resumed": {"path": str, "step": int, "epoch": int},
    "preempted": {"step": int},
    "model": {"path": str},
    "download": {"name": str, "done_bytes": int, "total_bytes": (int, type(None))},
    "note": {"level": str, "message": str},
    "failure": {"message": str, "why": _OPTIONAL_TEXT, "where": _OPTIONAL_TEXT, "step": _OPTIONAL_COUNT},
    "done": {},
}
"""What a task may say of itself, with the fields that the launcher relies on."""
_CHIEFS_DONE: _Fields = {"epochs": int, "steps": int, "examples_per_s": _OPTIONAL_NUMBER, "metrics": dict}


def flaw(kind: str, data: Mapping[str, Any]) -> str | None:
    """What is wrong with an event from a task, None if nothing. User code may write there too."""
    fields = _OF_TASKS.get(kind)
    if fields is None:
        return f"an event of the unknown kind {kind!r}"
    if kind == "done" and data:
        fields = _CHIEFS_DONE
    for name, types in fields.items():
        if not isinstance(data.get(name), types):
            return f"a `{kind}` event whose `{name}` is {data.get(name)!r}"
    return None


class Sink(Protocol):
    """Somewhere that events and output go. Called from the launcher's loop, so no call may wait for a reader."""

    def event(self, event: Event) -> None: ...

    def output(self, time: float, task: str, data: bytes) -> None:
        """Raw bytes that `task` printed, in the order of arrival, cut anywhere."""

    def tick(self, time: float) -> None:
        """Time passes: called several times a second, also when nothing happens."""

    def close(self) -> bool:
        """The last call. Whether everything was written; False from a terminal: another write may never return."""
