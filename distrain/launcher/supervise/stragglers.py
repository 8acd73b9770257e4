"""Which tasks are slower than the others, though all of them make the same steps: from the time that each computes.

Pure. Who waits for a slow peer makes its steps no faster, so what counts is the time that a task was busy itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from distrain.launcher.events import Event

SLOW_RATIO = 1.5
SLOW_FOR_S = 10.0
SMOOTHED_OVER_S = 10.0


@dataclass(frozen=True)
class Pace:
    """`busy_s`: each task's seconds of computing per step, smoothed, and `told_at`, when it last told of them.
    `ratios`: those to the median.
    """

    busy_s: Mapping[str, float] = field(default_factory=dict)
    told_at: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    slow_since: Mapping[str, float] = field(default_factory=dict)

    def after(self, event: Event) -> Pace:
        """With what a `progress` event tells of its task, or on behalf of others."""
        told = {name: figures.get("step_s") for name, figures in _others(event).items()}
        told[event.task or ""] = event.data.get("busy_s")
        heard = {name: float(value) for name, value in told.items() if isinstance(value, int | float) and value > 0}
        if not heard:
            return self
        # The times, not their ratios, are smoothed: two noisy tasks cannot both be the slower one.
        busy_s = {**self.busy_s, **{name: self._smoothed(name, value, event.time) for name, value in heard.items()}}
        told_at = {**self.told_at, **dict.fromkeys(heard, event.time)}
        if len(busy_s) < 2:
            return replace(self, busy_s=busy_s, told_at=told_at)
        # The lower one of two in the middle: of two tasks, the faster is the measure of the slower.
        median = statistics.median_low(busy_s.values())
        ratios = {name: value / median for name, value in busy_s.items()}
        slow = {name: self.slow_since.get(name, event.time) for name in ratios if ratios[name] > SLOW_RATIO}
        return Pace(busy_s, told_at, ratios, slow)

    def _smoothed(self, name: str, value: float, time: float) -> float:
        if name not in self.busy_s:
            return value
        share = 1.0 - math.exp((self.told_at[name] - time) / SMOOTHED_OVER_S)
        return self.busy_s[name] + share * (value - self.busy_s[name])

    def stragglers(self, time: float) -> list[str]:
        """Tasks that have been too slow for long enough to say so."""
        return [name for name, since in self.slow_since.items() if time - since >= SLOW_FOR_S]


def _others(event: Event) -> Mapping[str, Mapping[str, object]]:
    """What a ParameterServer's chief tells of its workers. A program may have written anything there."""
    of = event.data.get("of")
    if not isinstance(of, Mapping):
        return {}
    return {str(name): figures for name, figures in of.items() if isinstance(figures, Mapping)}
