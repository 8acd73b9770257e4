"""When a checkpoint is due. Pure, but for the clock that it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


class Turns:
    """The intervals of `checkpoint` in the job, each with turns of its own. `spec` None: none is ever due.

    All tasks know the turns by steps and epochs; those by time are the chief's to call. `any`: there are some.
    """

    def __init__(self, spec: Mapping[str, Any] | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.any = spec is not None
        spec = spec or {}
        self._steps: int | None = spec.get("every_steps")
        self._epochs: int | None = spec.get("every_epochs")
        self._seconds: float | None = spec.get("every_s")
        self._clock = clock
        self._taken_at = clock()

    def station(self, step: int, last: int) -> int:
        """The next step after `step` at which the host must stop, at most `last`."""
        return min(last, (step // self._steps + 1) * self._steps) if self._steps else last

    def due_by_time(self) -> bool:
        return self._seconds is not None and self._clock() - self._taken_at >= self._seconds

    def due_at(self, step: int) -> bool:
        """Whether one is due after `step` steps, be it in the middle of an epoch or at its end."""
        return bool(self._steps and step % self._steps == 0)

    def due_after(self, epochs: int) -> bool:
        """Whether one is due because `epochs` epochs are done."""
        return bool(self._epochs and epochs % self._epochs == 0)

    def taken(self) -> None:
        """One was taken, now."""
        self._taken_at = self._clock()
