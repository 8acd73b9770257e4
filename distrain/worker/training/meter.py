"""How fast training is: examples per second, and what share of a step this task and others are busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SPEED_WINDOW_S = 2.0


@dataclass
class Meter:
    """Examples per second: lately, and over all of training less the first call, validation and saving."""

    batch_size: int
    clock: Callable[[], float] = time.monotonic
    _recent: list[tuple[float, int]] = field(default_factory=list)
    _last: float = 0.0
    _seconds: float = 0.0
    _steps: int = 0
    _calls: int = 0

    def resume(self) -> None:
        """What comes from now on is training."""
        self._last = self.clock()

    def count(self, steps: int) -> None:
        now = self.clock()
        seconds, self._last = now - self._last, now
        self._calls += 1
        if self._calls == 1:
            return
        self._seconds += seconds
        self._steps += steps
        self._recent.append((seconds, steps))
        while len(self._recent) > 1 and sum(s for s, _ in self._recent[1:]) >= SPEED_WINDOW_S:
            self._recent.pop(0)

    @property
    def step_s(self) -> float | None:
        steps = sum(steps for _, steps in self._recent)
        return sum(seconds for seconds, _ in self._recent) / steps if steps else None

    @property
    def recent(self) -> float | None:
        return self.batch_size / self.step_s if self.step_s else None

    @property
    def mean(self) -> float | None:
        return self._steps * self.batch_size / self._seconds if self._seconds else None


class Busy:
    """Seconds a step that tasks were busy, as means over the calls since it was last told of."""

    def __init__(self) -> None:
        self._own = (0.0, 0)
        self._of: dict[str, tuple[float, int]] = {}

    def count(self, steps: int, busy_s: float | None, of: Mapping[str, tuple[float, int]]) -> None:
        """A call of `steps` steps: `busy_s` a step for this task, `of` others seconds a step and how many steps."""
        if busy_s is not None:
            self._own = _sum(self._own, (busy_s, steps))
        for task, (step_s, count) in of.items():
            self._of[task] = _sum(self._of.get(task, (0.0, 0)), (step_s, count))

    def told(self) -> Mapping[str, object]:
        """What a `progress` event says of it; it is counted anew from here."""
        seconds, steps = self._own
        said: dict[str, object] = {"busy_s": seconds / steps if steps else None}
        if self._of:
            said["of"] = {task: {"step_s": s / n, "steps": n} for task, (s, n) in self._of.items() if n}
        self._own, self._of = (0.0, 0), {}
        return said


def _sum(total: tuple[float, int], mean: tuple[float, int]) -> tuple[float, int]:
    return total[0] + mean[0] * mean[1], total[1] + mean[1]
