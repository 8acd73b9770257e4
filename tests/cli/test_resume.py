"""Training whose launcher is killed and resumed, from the command line to the last weights."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from process_table import wait_until

pytestmark = pytest.mark.tensorflow

WAIT_S = 240.0
STEPS_PER_EPOCH = 22
EPOCHS = 10
SLOW = """
import time
import keras

class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(0.3)
"""


def distrain(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distrain", *words]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=WAIT_S, check=False)


def detached(folder: Path, *words: str) -> dict[str, Any]:
    done = distrain(folder, "run", *words, "--detach", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def steps(run_dir: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in run_dir.glob("checkpoints/step-*"))


def state(run_dir: Path) -> bytes:
    return (run_dir / "checkpoints" / f"step-{EPOCHS * STEPS_PER_EPOCH:08d}" / "state.npz").read_bytes()


def nobody_holds(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_killed_launcher_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "job.yaml").write_text(
        "name: digits\n"
        "model: {name: mlp, dropout: 0.2}\n"
        "dataset: {name: digits, batch_size: 64}\n"
        f"training: {{epochs: {EPOCHS}, deterministic: true, callbacks: ['slow:Slow']}}\n"
        "checkpoint: {every_steps: 10, keep: 3}\n"
        "cluster: {threads_per_worker: 1}\n"
    )
    undisturbed = Path(detached(tmp_path, "job.yaml", "--name", "undisturbed")["run_dir"])
    told = detached(tmp_path, "job.yaml")
    run, killed = Path(told["run_dir"]), told["run"]
    wait_until(lambda: steps(run)[-1:] > [30], WAIT_S, "checkpoints in mid-epoch")
    os.kill(told["pid"], signal.SIGKILL)

    wait_until(lambda: json.loads(distrain(tmp_path, "list", "--json").stdout)["runs"][0]["state"] == "lost", WAIT_S)
    again = distrain(tmp_path, "run", "--resume", killed, "--dry-run", "--set", "dataset.batch_size=32")
    assert again.returncode == 2
    assert "dataset.batch_size differs, and steps are counted in batches of one size" in again.stderr
    wait_until(lambda: nobody_holds(run / ".agents"), WAIT_S, "the end of the killed launcher's task")
    kept = steps(run)
    with (run / "checkpoints" / f"step-{kept[-1]:08d}" / "state.npz").open("r+b") as newest:
        newest.write(b"damage")
    resumed = distrain(tmp_path, "run", "--resume", killed, "--plain")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    damaged = f"the checkpoint step-{kept[-1]:08d} is damaged: state.npz does not have the checksum that it was written"
    assert f"warning: {damaged} with; step-{kept[-2]:08d} is taken in its place\n" in resumed.stdout
    assert f"{killed} is resumed: it goes on after step {kept[-2]:,}, from " in resumed.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["state"], summary["attempts"], summary["steps"]) == ("succeeded", 2, EPOCHS * STEPS_PER_EPOCH)
    assert summary["resumed_from"] == {"run": killed, "step": kept[-2]}

    assert distrain(tmp_path, "attach", undisturbed.name).returncode == 0
    assert state(run) == state(undisturbed)

    # Steps that were done twice are told apart by their attempt.
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = {(each["attempt"], each["epoch"]) for each in metrics if each["split"] == "validation"}
    assert {(2, epoch) for epoch in range(kept[-2] // STEPS_PER_EPOCH + 1, EPOCHS + 1)} <= validated
    assert (1, 1) in validated

    over = distrain(tmp_path, "run", "--resume", killed)
    assert (over.returncode, over.stdout) == (0, "")
    assert over.stderr.endswith("has succeeded, and there is nothing left to do; to train on, raise training.epochs\n")
