"""Where in a training one stands. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where training goes on: `step` steps are done, and `epoch` (from 0) is the one to go on with; if it has `begun`,
    its on_epoch_begin was called. `over`: a callback ended training there, after `epoch` epochs.
    """

    step: int = 0
    epoch: int = 0
    begun: bool = False
    over: bool = False

    @classmethod
    def of(cls, about: Mapping[str, Any], skip_to: int | None = None) -> Place:
        """That of a checkpoint, or of a later step, in its epoch or a later one."""
        step, per_epoch = about["step"], about["steps_per_epoch"]
        if about["epoch_ended"]:
            there = cls(step, about["epoch"], over=about["stopped"])
        else:
            there = cls(step, (step - 1) // per_epoch, begun=True)
        if skip_to is None or skip_to <= step:
            return there
        # An epoch whose last step is left out ends all the same, with a validation and its callbacks.
        epoch = (skip_to - 1) // per_epoch
        return cls(skip_to, epoch, begun=there.begun and epoch == there.epoch)
