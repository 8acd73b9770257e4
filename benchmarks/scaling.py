"""What a second worker is worth on one machine, under MultiWorkerMirrored with distrain's defaults. Three comparisons:

- strong: examples/s of two workers against OneDevice on the same two cores, with the same global batch. OneDevice
  computes on both cores, each worker on one. Less than 1 is what two processes cost: the exchange of every gradient,
  an update of the weights in each, and steps as long as the slower worker's.
- weak: examples/s of each of two workers on two cores against one that has one core and the same batch for itself, all
  that belongs to its run pinned to that core.
- the exchange alone: the same against two runs at once, each with one core and a batch for itself, which share the
  machine's memory and caches but nothing else. What they lose against the one pinned core no worker can have.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from side_by_side import Comparison, Measured, Side, by_turns, report
from training_run import TrainingRun, job

BATCH_SIZE = 128
EPOCHS = 9
TARGET = 0.9


def measured(strategy: str, workers: int, cores: Sequence[int], batch_size: int) -> Measured:
    """Examples/s, and those of one worker. `batch_size`: of all workers."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # a thread's own, which what it starts inherits
    try:
        with TrainingRun(job(strategy, workers=workers, batch_size=batch_size, epochs=EPOCHS)) as run:
            figures = run.steady_examples_per_s(batch_size)
    finally:
        os.sched_setaffinity(0, before)
    return {**figures, "examples/s of a worker": figures["examples/s"] / workers}


def alone(core: int) -> Measured:
    """One worker with `core` and BATCH_SIZE for itself."""
    return measured("MultiWorkerMirrored", 1, (core,), BATCH_SIZE)


def at_once(cores: Sequence[int]) -> Measured:
    """As many runs of one worker as there are cores, at the same time."""
    with ThreadPoolExecutor(len(cores)) as threads:
        runs = list(threads.map(alone, cores))
    total = sum(run["examples/s"] for run in runs)
    return {**runs[0], "examples/s": total, "examples/s of a worker": total / len(cores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    one, two = sorted(os.sched_getaffinity(0))[:2]
    sides = (
        Side("two workers", lambda: measured("MultiWorkerMirrored", 2, (one, two), BATCH_SIZE)),
        Side("OneDevice", lambda: measured("OneDevice", 1, (one, two), BATCH_SIZE)),
        Side("two workers, twice the batch", lambda: measured("MultiWorkerMirrored", 2, (one, two), 2 * BATCH_SIZE)),
        Side("one pinned core", lambda: alone(one)),
        Side("two runs at once", lambda: at_once((one, two))),
    )
    worker = "examples/s of a worker"
    comparisons = (
        Comparison("examples/s", "1/s", "two workers", "OneDevice", TARGET),
        Comparison(worker, "1/s", "two workers, twice the batch", "one pinned core", TARGET),
        Comparison(worker, "1/s", "two workers, twice the batch", "two runs at once", TARGET),
    )
    conditions = {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "cores": 2}
    report("scaling", by_turns(sides, repeats, warm_up=False), comparisons, conditions)


if __name__ == "__main__":
    main()
