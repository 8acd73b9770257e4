"""What a second worker is worth on one machine, under MultiWorkerMirrored with distrain's defaults. Two comparisons:

- strong: examples/s of two workers against OneDevice on the same two cores, with the same global batch. OneDevice
  computes on both cores, each worker on one. Less than 1 is what two processes cost: the exchange of every gradient,
  and steps as long as the slower worker's.
- weak: examples/s of each of two workers on two cores against one that has one core and half the batch for itself, all
  that belongs to its run pinned to that core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from side_by_side import Comparison, Measured, Side, by_turns, report
from training_run import TrainingRun, job

BATCH_SIZE = 128
EPOCHS = 9
TARGET = 0.9


def measured(strategy: str, workers: int, cores: Sequence[int], batch_size: int) -> Measured:
    """Examples/s, and those of one worker."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with TrainingRun(job(strategy, workers=workers, batch_size=batch_size, epochs=EPOCHS)) as run:
            figures = run.steady_examples_per_s(batch_size)
    finally:
        os.sched_setaffinity(0, before)
    return {**figures, "examples/s of a worker": figures["examples/s"] / workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    one, two = sorted(os.sched_getaffinity(0))[:2]
    sides = (
        Side("MultiWorkerMirrored", lambda: measured("MultiWorkerMirrored", 2, (one, two), BATCH_SIZE)),
        Side("OneDevice", lambda: measured("OneDevice", 1, (one, two), BATCH_SIZE)),
        Side("one pinned core", lambda: measured("MultiWorkerMirrored", 1, (one,), BATCH_SIZE // 2)),
    )
    comparisons = (
        Comparison("examples/s", "1/s", "MultiWorkerMirrored", "OneDevice", TARGET),
        Comparison("examples/s of a worker", "1/s", "MultiWorkerMirrored", "one pinned core", TARGET),
    )
    conditions = {"batch_size": BATCH_SIZE, "pinned_batch_size": BATCH_SIZE // 2, "epochs": EPOCHS, "cores": 2}
    report("scaling", by_turns(sides, repeats, warm_up=False), comparisons, conditions)


if __name__ == "__main__":
    main()
