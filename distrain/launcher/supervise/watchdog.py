"""Whether a run still makes steps, and which of its tasks keeps the others from it.

Pure: folds what tasks say of their steps into a `Watch`, and judges it. All tasks of a run move together, so it is the
run whose steps are waited for; only tasks that serve are watched one by one, by their pulse. What follows from a hang
is `supervise`'s.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

LEAST_STOPPED_S = 10.0
LEAST_S = 60.0
LEAST_IN_PYTHON_S = 600.0
"""No step is awaited for less: where a task is known to stand still; where none is; and where one is in Python code,
which may be a callback that uploads something. What the job says goes before all of them.
"""
FIRST_STEP = "the first step"
EVALUATION = "validating"
"""What a task says that it does while it evaluates."""
_MEDIANS = 20
_LONGEST = 3
_FIRST_STEPS = 2
_GAPS = 64
_PULSE_S = 3.0
"""A task whose threads run says something every second."""


class Watched(Protocol):
    """What there must be known of a task."""

    @property
    def name(self) -> str: ...
    @property
    def doing(self) -> str: ...
    @property
    def pulse_at(self) -> float | None: ...
    @property
    def busy(self) -> str | None: ...
    @property
    def stopped(self) -> bool: ...


@dataclass(frozen=True)
class Watch:
    """What is known of the run's pace. `moved_at`: when it last made a step or went on to something else, None: its
    steps have not begun. `gaps_s`: between steps that were told of, the last of them. `longest_s`: the longest time
    without a step in each phase that has come to an end, in any attempt.
    """

    moved_at: float | None = None
    stepped: bool = False
    gaps_s: tuple[float, ...] = ()
    longest_s: Mapping[str, float] = field(default_factory=dict)

    def begun(self, time: float) -> Watch:
        """All tasks are ready, and the attempt's first step is under way."""
        return replace(self, moved_at=time, stepped=False)

    def over(self) -> Watch:
        """The attempt's tasks are stopped. What is known of the pace stays."""
        return replace(self, moved_at=None, stepped=False)

    def made_step(self, time: float, phase: str) -> Watch:
        if self.moved_at is None:
            return replace(self, moved_at=time, stepped=True)
        if not self.stepped:
            return replace(self._longest(time, FIRST_STEP), stepped=True)
        gaps_s = (*self.gaps_s, time - self.moved_at)[-_GAPS:]
        return replace(self._longest(time, phase), gaps_s=gaps_s)

    def left(self, time: float, phase: str) -> Watch:
        """A task goes on to something else after `phase`."""
        if self.moved_at is None or not self.stepped:
            return self
        return self._longest(time, phase)

    def _longest(self, time: float, phase: str) -> Watch:
        assert self.moved_at is not None
        longest_s = max(self.longest_s.get(phase, 0.0), time - self.moved_at)
        return replace(self, moved_at=time, longest_s={**self.longest_s, phase: longest_s})

    def evaluated(self, seconds: float) -> Watch:
        """A task aside has evaluated a checkpoint in this time."""
        longest_s = max(self.longest_s.get(EVALUATION, 0.0), seconds)
        return replace(self, longest_s={**self.longest_s, EVALUATION: longest_s})

    def evaluation_s(self, *, fixed_s: float | None, start_timeout_s: float) -> float:
        """How long a task aside may take for one evaluation. `fixed_s` as the job says of steps: it is never less."""
        if fixed_s == 0:
            return math.inf
        longest_s = self.longest_s.get(EVALUATION)
        least_s = max(LEAST_IN_PYTHON_S, fixed_s or 0.0)
        return max(least_s, start_timeout_s if longest_s is None else _LONGEST * longest_s)

    def paused(self, gap_s: float) -> Watch:
        """Nothing could be heard for so long, as the launcher itself stood still."""
        return self if self.moved_at is None else replace(self, moved_at=self.moved_at + gap_s)

    def limit_s(self, tasks: Iterable[Watched], *, fixed_s: float | None, start_timeout_s: float) -> float:
        """How long the run may go without a step of `tasks`, those that make them. `fixed_s`: as the job says, 0: for
        ever; the first step of an attempt, before which everything is compiled, always takes its own time.
        """
        if fixed_s == 0:
            return math.inf
        tasks = tuple(tasks)
        first_s = self.longest_s.get(FIRST_STEP)
        if not self.stepped:
            return start_timeout_s if first_s is None else max(LEAST_S, _LONGEST * first_s)
        if fixed_s is not None:
            return fixed_s
        if any(task.stopped for task in tasks):
            return LEAST_STOPPED_S
        in_python = any(task.busy == "python" for task in tasks)
        limits = [LEAST_IN_PYTHON_S if in_python else LEAST_S, _FIRST_STEPS * (first_s or 0.0)]
        if self.gaps_s:
            limits.append(_MEDIANS * statistics.median(self.gaps_s))
        for phase in {task.doing for task in tasks}:
            longest_s = self.longest_s.get(phase)
            limits.append(start_timeout_s if longest_s is None else _LONGEST * longest_s)
        return max(limits)


def culprits(tasks: Iterable[Watched], time: float) -> tuple[tuple[str, ...], str]:
    """The tasks that keep the others waiting, and what is known of them, in a few words; of all where none stands out.

    `tasks`: those that have not ended.
    """
    tasks = tuple(tasks)
    if found := tuple(task.name for task in tasks if task.stopped):
        return found, "it stands still, as after SIGSTOP"
    silent = [task for task in tasks if task.pulse_at is not None and time - task.pulse_at >= _PULSE_S]
    if silent and len(silent) < len(tasks):
        since_s = max(time - (task.pulse_at or time) for task in silent)
        return tuple(task.name for task in silent), f"no thread of it has said anything for {since_s:.0f} s"
    in_python = tuple(task.name for task in tasks if task.busy == "python")
    if in_python and any(task.busy == "step" for task in tasks):
        return in_python, "it is in Python code, while the others wait in a step"
    if len(tasks) == 1:
        where = {"python": "it is in Python code", "step": "it is in a step"}
        return (tasks[0].name,), where.get(tasks[0].busy or "", "nothing is known of what it does")
    return tuple(task.name for task in tasks), "none stands out"
