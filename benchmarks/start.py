"""Start to first step, and memory per worker: `distrain run` against plain `python` processes with TF_CONFIG.

Both train the same network on the same data with MultiWorkerMirrored. The time runs from just before the first process
is started until the chief's first step is done. Memory is the sum of PSS over all processes of a side (launcher, guard
and agent included) at step 30; what an extra worker costs is the difference between 4 and 2 workers, halved.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from processes import Baseline, pss_bytes
from side_by_side import Comparison, Measured, Side, by_turns, report
from training_run import TrainingRun, data_folder, job

BATCH_SIZE = 128
MEASURED_STEP = 30
FEW, MANY = 2, 4

Start = Callable[[int], tuple[float, float]]
"""From a number of workers to seconds until the first step, and bytes of PSS."""


def distrain(workers: int) -> tuple[float, float]:
    settings = job("MultiWorkerMirrored", workers=workers, batch_size=BATCH_SIZE, epochs=1000, steps_per_call=1)
    with TrainingRun(settings) as run:
        first_s = 0.0
        for event in run.events():
            if event["kind"] == "metrics" and not first_s:
                first_s = event["time"] - run.began
            if event["kind"] == "metrics" and event["step"] >= MEASURED_STEP:
                return first_s, pss_bytes(run.pids())
    raise RuntimeError(f"the run ended before step {MEASURED_STEP}")


def plain(workers: int) -> tuple[float, float]:
    arguments = (str(data_folder()), str(BATCH_SIZE), "100000")
    with Baseline("plain_worker.py", {"worker": workers}, *arguments) as cluster:
        first_s = 0.0
        for at, line in cluster.says():
            first_s = first_s or at - cluster.began
            if line["step"] >= MEASURED_STEP:
                return first_s, pss_bytes(cluster.pids())
    raise RuntimeError(f"the baseline ended before step {MEASURED_STEP}")


def measured(start: Start) -> Measured:
    _, few_bytes = start(FEW)
    first_s, many_bytes = start(MANY)
    extra_bytes = (many_bytes - few_bytes) / (MANY - FEW)
    return {"to first step": first_s, "each extra worker": extra_bytes / 1e6, "all processes": many_bytes / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    sides = (Side("distrain", lambda: measured(distrain)), Side("plain processes", lambda: measured(plain)))
    comparisons = (
        Comparison("to first step", "s", "distrain", "plain processes", 2.2, more_is_better=False),
        Comparison("each extra worker", "MB PSS", "distrain", "plain processes", 2.0, more_is_better=False),
    )
    conditions = {"workers": MANY, "batch_size": BATCH_SIZE, "threads": "each side's own default"}
    report("start", by_turns(sides, repeats), comparisons, conditions)


if __name__ == "__main__":
    main()
