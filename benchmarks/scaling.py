"""Examples/s of two MultiWorkerMirrored workers against OneDevice on the same two cores, with the same global batch.

Both are distrain's, with its defaults: OneDevice computes on all cores, each of two workers on half of them. Less than
1 is what two processes cost: the all-reduce of every gradient through gRPC, and steps as long as the slower worker's.
"""

from __future__ import annotations

import argparse
import os

from side_by_side import Comparison, Measured, Side, by_turns, report
from training_run import TrainingRun, job

BATCH_SIZE = 128
EPOCHS = 9
CORES = 2


def examples_per_s(strategy: str, workers: int) -> Measured:
    with TrainingRun(job(strategy, workers=workers, batch_size=BATCH_SIZE, epochs=EPOCHS)) as run:
        return run.steady_examples_per_s(BATCH_SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    sides = (
        Side("MultiWorkerMirrored", lambda: examples_per_s("MultiWorkerMirrored", 2)),
        Side("OneDevice", lambda: examples_per_s("OneDevice", 1)),
    )
    comparisons = (Comparison("examples/s", "1/s", "MultiWorkerMirrored", "OneDevice", 0.8),)
    conditions = {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "cores": CORES}
    report("scaling", by_turns(sides, repeats, warm_up=False), comparisons, conditions)


if __name__ == "__main__":
    main()
