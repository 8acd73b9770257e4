"""docs/equivalence.md, made out of what the tests of equivalence have measured. Does not measure."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

_HEAD = """\
# The same training, whatever the strategy

Made by `scripts/equivalence`: do not edit. {when}, {cores} cores, Python {python}.

Each row trains the same small network on the same examples as OneDevice does, by SGD with momentum and clipping, for
{steps} steps. **difference** is the largest relative difference between its loss and OneDevice's at any of these.
Who claims the same mathematics stays within {same:g}, which is the rounding of sums that are made in another order.
The others have a bound of their own. **accuracy** is on the 2,000 validation examples of 10,000 of MNIST, after 3
epochs of the usual small convolutional network with Adam; the bar is {bar}.

| strategy and keys | claims | difference | bound | accuracy |
|---|---|---|---|---|
"""
SAME = 1e-5
STEPS = 30
ENOUGH = 0.96
"""The accuracy on MNIST that is asked of all."""


@dataclass(frozen=True)
class Difference:
    """How far the losses were from OneDevice's: `largest` is relative, and may be as large as `bound`."""

    what: str
    largest: float
    bound: float


@dataclass(frozen=True)
class Accuracy:
    """What came of training on MNIST."""

    what: str
    reached: float


def table(measured: Sequence[Difference | Accuracy]) -> str:
    head = _HEAD.format(
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        steps=STEPS,
        same=SAME,
        bar=ENOUGH,
    )
    differences = {one.what: one for one in measured if isinstance(one, Difference)}
    reached = {one.what: f"{one.reached:.4f}" for one in measured if isinstance(one, Accuracy)}
    names = dict.fromkeys((*differences, *reached))
    return head + "".join(_line(what, differences.get(what), reached.get(what, "")) for what in names)


def _line(what: str, difference: Difference | None, accuracy: str) -> str:
    cells = [what, "", "", "", accuracy]
    if difference is not None:
        same = difference.bound == SAME
        cells[1:4] = ["the same" if same else "a bound", f"{difference.largest:.1e}", f"{difference.bound:g}"]
    return "| " + " | ".join(cells) + " |\n"
