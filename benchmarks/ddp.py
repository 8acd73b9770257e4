"""Examples/s of two workers: distrain's MultiWorkerMirrored against PyTorch's DistributedDataParallel under torchrun.

The same network, data, optimizer and batch on both sides, in memory, without validation or checkpoints, on the same two
cores. What counts is the time from the end of the first epoch to the end of the last. DDP gets gloo, one thread per
core, and the settings that are the fastest for it (`--sweep` tries them); distrain gets its defaults.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence

from processes import BASELINES, Processes
from rich.table import Table
from side_by_side import Comparison, Measured, Side, by_turns, print_table, report
from training_run import TrainingRun, data_folder, job, rate

BATCH_SIZE = 128
EPOCHS = 9
WORKERS = 2
TRIED = ("--compile", "--channels-last", "--no-fused")
BEST: Sequence[str] = ()
TARGET = 1.2


def distrain() -> Measured:
    with TrainingRun(job("MultiWorkerMirrored", workers=WORKERS, batch_size=BATCH_SIZE, epochs=EPOCHS)) as run:
        return run.steady_examples_per_s(BATCH_SIZE)


def ddp(settings: Sequence[str] = BEST) -> Measured:
    """Raises RuntimeError: it has failed."""
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}")
    script = (str(BASELINES / "ddp_throughput.py"), str(data_folder()))
    with Processes() as processes:
        options = ("--batch-size", str(BATCH_SIZE), "--epochs", str(EPOCHS), *settings)
        run = processes.start((*launch, *script, *options))
        assert run.stdout is not None
        lines = [(time.time(), json.loads(line)) for line in run.stdout]
        if run.wait():
            raise RuntimeError(f"torchrun ended with {run.returncode}:\n{processes.error_tail()}")
    reached = [(at, line["step"]) for at, line in lines if "step" in line]
    return {"examples/s": rate(reached, BATCH_SIZE), "parameters": lines[0][1]["parameters"]}


def sweep() -> None:
    table = Table("settings", "examples/s", title="DistributedDataParallel, gloo")
    for settings in (each for count in range(3) for each in itertools.combinations(TRIED, count)):
        try:
            speed = f"{ddp(settings)['examples/s']:,.0f}"
        except RuntimeError as error:  # torch.compile needs a C++ compiler and Python's headers
            print(error, file=sys.stderr)
            speed = "failed"
        table.add_row(" ".join(settings) or "defaults", speed)
    print_table(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", action="store_true", help="try DDP's settings in place of comparing")
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is not installed for this Python: pip install torch")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])
    if options.sweep:
        sweep()
        return
    measured = by_turns((Side("distrain", distrain), Side("DDP", ddp)), options.repeats, warm_up=False)
    sizes = {turn["parameters"] for turns in measured.values() for turn in turns}
    if len(sizes) != 1:
        raise SystemExit(f"the two sides train different networks: {sizes} parameters")
    comparisons = (Comparison("examples/s", "1/s", "distrain", "DDP", TARGET),)
    report("ddp", measured, comparisons, {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "workers": WORKERS})


if __name__ == "__main__":
    main()
