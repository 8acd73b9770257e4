"""docs/faults.md, made out of what the tests of faults have measured. Does not measure."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fault_run import Outcome

_HEAD = """\
# What happens when something fails

Made by `scripts/faults`, which injures real runs and measures: do not edit. {when}, {cores} cores, Python {python}.

- **where**: *local*, all tasks on one machine; *hosts*, over real ssh on the hosts of `scripts/netlab`.
- **detected**: seconds from the injury to the sentence that names it. **trains again**: to the first step after it; for
  a worker of a ParameterServer job, whose peers never stop, until it takes part again.
- **left**: processes beyond those that belong there, once it trains again. **steps lost**: done twice, as they came
  after the newest checkpoint, which is written every 40 steps (some milliseconds each) in these runs.
- A frozen task is detected by its missing steps: the step timeout is 6 s in these runs. A host that is cut off is lost
  when nothing was heard of it for `contact_timeout_s`, here 3 s.

| fault | strategy | where | what happened | detected [s] | trains again [s] | left | steps lost |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    fault: str
    strategy: str
    place: str
    outcome: Outcome


def table(rows: Sequence[Row]) -> str:
    head = _HEAD.format(
        when=time.strftime("%Y-%m-%d", time.gmtime()),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
    )
    return head + "".join(map(_line, rows))


def _line(row: Row) -> str:
    outcome = row.outcome
    cells = (
        row.fault,
        row.strategy,
        row.place,
        outcome.happened.replace("|", "/"),
        f"{outcome.detected_s:.2f}",
        f"{outcome.resumed_s:.1f}",
        str(outcome.processes_left),
        str(outcome.steps_lost),
    )
    return "| " + " | ".join(cells) + " |\n"
