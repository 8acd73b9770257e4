"""What one run's events say of its speed, its traffic and its memory. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distrain.launcher.events import Event

Points = Sequence[tuple[float, float]]
"""Values at times (Unix seconds), in the order of time."""


class TooShort(Exception):
    """Too little happened after the warm-up to take its speed."""


@dataclass(frozen=True)
class Measurement:
    """What one run came to. `examples_per_s`: between the first and the last step told of after the warm-up.
    `sent_bytes_per_step`: by all tasks over TCP, from when each was ready until it was done or last looked at, over the
    steps made meanwhile, those of the warm-up included; None: that cannot be told. `memory_bytes`: each task's peak.
    """

    examples_per_s: float
    sent_bytes_per_step: float | None
    memory_bytes: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "memory_bytes": dict(self.memory_bytes)}


@dataclass
class _Task:
    ready_at: float | None = None
    sent: list[tuple[float, float | None]] = field(default_factory=list)
    memory_bytes: int = 0


def measure(events: Iterable[Event], warm_up_steps: int) -> Measurement:
    """The figures of a run from all its events.

    Raises:
        TooShort: it has no speed.
    """
    tasks: dict[str, _Task] = {}
    chief, batch_size = "", 0
    reached: list[tuple[float, float]] = []
    for event in events:
        if event.task is None:
            continue
        data, task = event.data, tasks.setdefault(event.task, _Task())
        match event.kind:
            case "usage":
                task.sent.append((event.time, data.get("sent_bytes")))
                task.memory_bytes = max(task.memory_bytes, data["memory_bytes"])
            case "ready":
                task.ready_at = event.time
            case "started":
                chief, batch_size = event.task, data["batch_size"]
                reached.append((event.time, data["first_step"]))
            case "progress" | "metrics" if event.task == chief and data.get("split") != "validation":
                reached.append((event.time, data["step"]))
    counted = [point for point in reached if point[1] >= warm_up_steps]
    if not counted:
        raise TooShort
    (began, first), (ended, last) = counted[0], counted[-1]
    if ended <= began or last <= first:
        raise TooShort
    return Measurement(
        examples_per_s=(last - first) * batch_size / (ended - began),
        sent_bytes_per_step=_sent_per_step(tasks.values(), reached),
        memory_bytes={name: task.memory_bytes for name, task in tasks.items()},
    )


def _sent_per_step(tasks: Iterable[_Task], reached: Points) -> float | None:
    total = 0.0
    for task in tasks:
        # What a task sent until it was ready is told just before it says so.
        before = [point for point in task.sent if task.ready_at is not None and point[0] <= task.ready_at]
        if not before:
            return None
        (first_at, first), (last_at, last) = before[-1], task.sent[-1]
        steps = _value_at(reached, last_at) - _value_at(reached, first_at)
        if first is None or last is None or steps <= 0:
            return None
        total += (last - first) / steps
    return total


def _value_at(points: Points, time: float) -> float:
    """On the line through `points`; before the first and after the last, theirs."""
    place = bisect_left(points, time, key=lambda point: point[0])
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (t0, v0), (t1, v1) = points[place - 1], points[place]
    return v0 + (v1 - v0) * (time - t0) / (t1 - t0)
