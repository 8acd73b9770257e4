"""From SIGKILL of a worker to the first step after it: `distrain run` against torchrun with a DDP script.

Both train the same network on the same data with 2 local workers and a checkpoint every 50 steps. One worker is killed
at some step beyond 200; the time runs until a step is done by whatever was started again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import BASELINES, Processes
from side_by_side import Comparison, Measured, Side, by_turns, report
from training_run import TrainingRun, data_folder, job

BATCH_SIZE = 128
EVERY_STEPS = 50
KILLED_AFTER_STEP = 200
WORKERS = 2
PATIENCE_S = 30.0
"""Torchrun's workers sometimes never find each other again after a restart. That is then counted, and tried again."""


def distrain() -> Measured:
    settings = job("MultiWorkerMirrored", workers=WORKERS, batch_size=BATCH_SIZE, epochs=1000)
    settings["checkpoint"] = {"every_steps": EVERY_STEPS}
    pid, killed_at = 0, 0.0
    with TrainingRun(settings) as run:
        for event in run.events():
            if event["kind"] == "task_started" and event["task"] == "worker:1":
                pid = event["pid"]
            if event["kind"] != "progress":
                continue
            if not killed_at and event["step"] > KILLED_AFTER_STEP:
                killed_at = time.time()
                os.kill(pid, signal.SIGKILL)
            elif killed_at and event["attempt"] > 1:
                return {"to a step again": event["time"] - killed_at}
    raise RuntimeError("the run ended before it had recovered")


def torchrun() -> Measured:
    hung = 0
    while (seconds := _torchrun()) is None:
        hung += 1
    return {"to a step again": seconds, "hung before that": hung}


def _torchrun() -> float | None:
    """None: it has not recovered."""
    with tempfile.TemporaryDirectory(prefix="distrain-benchmark-") as folder, Processes() as processes:
        script = str(BASELINES / "ddp_worker.py")
        training = (str(data_folder()), str(BATCH_SIZE), "1000000", str(Path(folder, "state.pt")), str(EVERY_STEPS))
        launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}")
        run = processes.start((*launch, "--max-restarts=3", script, *training))
        # Its workers end only with it, and it ends only if asked to.
        patience = threading.Timer(PATIENCE_S, run.terminate)
        patience.start()
        try:
            return _recovered(run)
        finally:
            patience.cancel()
            run.terminate()
            run.communicate(timeout=60)  # read on: a worker that waits for room in the pipe does not end


def _recovered(run: subprocess.Popen[str]) -> float | None:
    """Kill a worker, and wait for the first step of those that come after it."""
    assert run.stdout is not None
    pids: dict[int, int] = {}
    killed_at, restarted = 0.0, False
    for text in run.stdout:
        line = json.loads(text)
        if "rank" in line:
            restarted = bool(killed_at)
            pids[line["rank"]] = line["pid"]
        elif not killed_at and line["step"] > KILLED_AFTER_STEP:
            killed_at = time.time()
            os.kill(pids[1], signal.SIGKILL)
        elif restarted:
            return time.time() - killed_at
    if not killed_at:
        raise RuntimeError("torchrun ended before a worker was killed")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is not installed for this Python: pip install torch")
    sides = (Side("distrain", distrain), Side("torchrun", torchrun))
    comparisons = (Comparison("to a step again", "s", "distrain", "torchrun", 1.0, more_is_better=False),)
    conditions = {"workers": WORKERS, "batch_size": BATCH_SIZE, "checkpoint_every_steps": EVERY_STEPS}
    report("recovery", by_turns(sides, repeats), comparisons, conditions)


if __name__ == "__main__":
    main()
