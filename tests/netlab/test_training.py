"""MNIST over several hosts: it learns, what it leaves is here, and the losses are those of one device."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netlab.lab import MNIST, Lab
from netlab.launch import Launch, write_job
from process_table import wait_until

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST in {MNIST}"),
]

EPOCHS = 2  # few: what differs in the last bit is amplified by each step
STEPS = 16
TRAIN_S = 120.0


def job(strategy: str) -> dict[str, Any]:
    return {
        "name": strategy.lower(),
        "strategy": strategy,
        "dataset": {"name": "mnist", "path": str(MNIST), "batch_size": 120},
        "training": {
            "epochs": EPOCHS,
            "steps_per_epoch": STEPS,
            "steps_per_call": 1,
            "optimizer": {"name": "SGD", "learning_rate": 0.05, "momentum": 0.9},
        },
    }


Losses = dict[tuple[int, str], float]


def losses(run: Path) -> Losses:
    """The loss after each step, on the batch, and after each epoch, on the validation data."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], line["split"]): line["metrics"]["loss"] for line in lines}


@pytest.fixture(scope="module")
def one_device(hosts: Lab, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """The losses of OneDevice on this machine. `hosts` is asked for to be skipped where there is no lab."""
    folder = tmp_path_factory.mktemp("one-device")
    command = [sys.executable, "-m", "distrain", "run", write_job(folder, **job("OneDevice"))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TRAIN_S, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    (run,) = (folder / "runs").iterdir()
    return losses(run)


def is_whole(run: Launch) -> None:
    """The run directory has what a run on this machine alone leaves there."""
    for name in ("job.yaml", "plan.json", "events.jsonl", "metrics.jsonl", "summary.json", "model.keras"):
        assert (run.rundir / name).is_file(), name
    assert stat.S_IMODE((run.rundir / "model.keras").stat().st_mode) == 0o600
    steps = [int(path.name.removeprefix("step-")) for path in (run.rundir / "checkpoints").iterdir()]
    assert sorted(steps) == [STEPS * epoch for epoch in range(1, EPOCHS + 1)]
    for path in (run.rundir / "checkpoints").iterdir():
        assert {each.name for each in path.iterdir()} >= {"state.npz", "checkpoint.json"}
    program = "import keras, sys; print('parameters', keras.saving.load_model(sys.argv[1]).count_params())"
    loaded = subprocess.run(
        [sys.executable, "-c", program, str(run.rundir / "model.keras")], capture_output=True, text=True, check=False
    )
    assert "parameters" in loaded.stdout, loaded.stderr


@pytest.mark.parametrize("workers", ["host1,host2", "host1,host2,host3"])
def test_multi_worker_mirrored_computes_what_one_device_does(
    lab: Lab, launch: Callable[..., Launch], user: Path, one_device: Losses, workers: str
) -> None:
    run = launch("--workers", workers, write_job(user, **job("MultiWorkerMirrored")))
    run.wait(0, TRAIN_S)
    assert len(one_device) == EPOCHS * (STEPS + 1)
    assert one_device[EPOCHS * STEPS, "validation"] < 0.6 * one_device[1, "train"], "equal losses would show nothing"
    assert losses(run.rundir) == pytest.approx(one_device, rel=1e-4)
    if workers == "host1,host2":
        is_whole(run)
    lab.none_left(timeout_s=1)


def test_parameter_server_with_one_worker_computes_what_one_device_does(
    lab: Lab, launch: Callable[..., Launch], user: Path, one_device: Losses
) -> None:
    run = launch("--workers", "host1", "--ps", "host2", write_job(user, **job("ParameterServer")))
    run.wait(0, TRAIN_S)
    assert losses(run.rundir) == pytest.approx(one_device, rel=1e-4)
    is_whole(run)


def test_parameter_server_learns_on_three_hosts(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    """With Adam over whole epochs: momentum on gradients that arrive late learns nothing sure in a few steps."""
    learning = job("ParameterServer")
    learning["training"] = {"epochs": 2, "optimizer": {"name": "adam", "learning_rate": 0.001}}
    run = launch("--workers", "host1,host2", "--ps", "host3", write_job(user, **learning))
    run.wait(0, TRAIN_S)
    assert run.plan("chief:0")["host"] == "host1"
    assert run.plan("ps:0")["host"] == "host3"
    assert run.summary["metrics"]["validation"]["accuracy"] > 0.9
    lab.none_left(timeout_s=1)


def test_training_that_loses_a_host_is_ended(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    """The network is cut while it trains: the cause is that host, and nothing stays on the others."""
    long = job("MultiWorkerMirrored")
    long["training"]["epochs"] = 100_000
    long["restart"] = False
    sets = ("cluster.contact_timeout_s=3",)
    run = launch("--workers", "host1,host2", write_job(user, **long), sets=sets)

    def trains() -> bool:
        assert run.launcher.poll() is None, run.text
        return any(event["kind"] == "progress" for event in run.events)

    wait_until(trains, 60, "training")
    lab.cut("host2")
    run.launcher.wait(30)
    assert run.launcher.returncode in (1, 3)
    assert "host2" in json.dumps(run.summary["first_failure"])
    lab.none_left("host1", timeout_s=2)
    lab.mend("host2")
    lab.none_left(timeout_s=30)
