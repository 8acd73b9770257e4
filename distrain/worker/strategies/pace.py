"""How many steps one call from the host runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

TARGET_S = 0.3
GROWTH = 4
STRETCH = 1.5
"""How much longer than usual a call may be, so that no short one follows it: each costs the host as much."""


@dataclass(frozen=True)
class Pace:
    """Steps per call that make a call last about `TARGET_S`: long enough to cost the host nothing, short enough to
    report from. The first call runs one step and is not measured by, for it includes the tracing.
    """

    steps: int = 1
    calls: int = 0
    fixed: bool = False

    @classmethod
    def of(cls, steps_per_call: int | None) -> Pace:
        return cls() if steps_per_call is None else cls(steps=steps_per_call, fixed=True)

    def rounds_of(self, left: int) -> int:
        """How many of the `left` rounds before the next station a call runs."""
        if not self.fixed and left <= STRETCH * self.steps:
            return left
        return min(self.steps, left)

    def after(self, steps: int, seconds: float) -> Pace:
        """The pace after a call of `steps` steps that took `seconds`."""
        if self.fixed or self.calls == 0:
            return Pace(self.steps, self.calls + 1, self.fixed)
        wanted = round(steps * TARGET_S / max(seconds, 1e-6))
        return Pace(max(1, min(wanted, GROWTH * max(steps, self.steps))), self.calls + 1)
