"""Real training through the command line: the usual small network on MNIST, under every strategy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from equivalence_table import ENOUGH, Accuracy
from process_table import MARK, marked, wait_until

pytestmark = pytest.mark.tensorflow
ROOT = Path(__file__).parents[1]
MNIST = ROOT.parent / "shared" / "data" / "mnist-10k"
JOBS = {
    "OneDevice": "strategy: OneDevice",
    "Mirrored": "strategy: Mirrored\ncluster: {devices_per_worker: 2}",
    "MultiWorkerMirrored": "strategy: MultiWorkerMirrored\ncluster: {workers: 2}",
    "ParameterServer": "strategy: ParameterServer\ncluster: {workers: 2, ps: 2}",
    "ParameterAveraging": "strategy: {name: ParameterAveraging, sync_every: 8}\ncluster: {workers: 2}",
    "float16": "strategy: {name: MultiWorkerMirrored, compression: float16}\ncluster: {workers: 2}",
    "bfloat16": "strategy: {name: MultiWorkerMirrored, compression: bfloat16}\ncluster: {workers: 2}",
}
WORDS = {
    "ParameterAveraging": "`ParameterAveraging`, 2 workers, `sync_every: 8`",
    "ParameterServer": "`ParameterServer`, 2 workers",
    "MultiWorkerMirrored": "`MultiWorkerMirrored`, 2 workers",
    "Mirrored": "`Mirrored`, 2 devices",
    "OneDevice": "`OneDevice`",
    "float16": "`compression: float16`",
    "bfloat16": "`compression: bfloat16`",
}
"""What the table of equivalence calls them."""

needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST in {MNIST}")


def start(folder: Path, job: str, *words: str, mark: str = "", **kwargs: Any) -> subprocess.Popen[str]:
    (folder / "job.yaml").write_text(job)
    command = [sys.executable, "-m", "distrain", "run", "job.yaml", *words]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, MARK: mark}, text=True, **kwargs)


def the_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run's directory for each strategy."""
    runs = {}
    for strategy, keys in JOBS.items():
        folder = tmp_path_factory.mktemp(strategy)
        job = (
            f"name: {strategy.lower()}\n{keys}\n"
            f"dataset: {{name: mnist, path: '{MNIST}', batch_size: 128}}\n"
            "training: {epochs: 3, optimizer: {name: adam, learning_rate: 0.001}}\n"
        )
        mark = uuid.uuid4().hex
        pipe = subprocess.PIPE
        launcher = start(folder, job, "--json", mark=mark, stdout=pipe, stderr=pipe)
        out, told = launcher.communicate(timeout=240)
        assert launcher.returncode == 0, told
        assert marked(mark) == []
        runs[strategy] = the_run(folder)
        assert json.loads(out) == json.loads((runs[strategy] / "summary.json").read_text())
    return runs


@needs_mnist
@pytest.mark.timeout(600)
def test_every_strategy_learns_mnist(trained: dict[str, Path], measured: Callable[[Accuracy], None]) -> None:
    accuracies = {}
    for strategy, run in trained.items():
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["state"], summary["epochs"], summary["steps"]) == ("succeeded", 3, 186)
        accuracies[strategy] = summary["metrics"]["validation"]["accuracy"]
        measured(Accuracy(WORDS[strategy], accuracies[strategy]))
    assert min(accuracies.values()) >= ENOUGH, accuracies


@needs_mnist
def test_the_model_is_plain_keras_and_gives_the_same_accuracy(trained: dict[str, Path]) -> None:
    program = f"""
import gzip, json, sys
import keras, numpy as np

def read(name):
    data = gzip.open("{MNIST}/" + name).read()
    return np.frombuffer(data, np.uint8, offset=16 if "images" in name else 8)

x = read("t10k-images-idx3-ubyte.gz").reshape(-1, 28, 28, 1).astype("float32") / 255
y = read("t10k-labels-idx1-ubyte.gz")
for path in sys.argv[1:]:
    model = keras.saving.load_model(path)
    print("ACCURACY", float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)))
assert not [name for name in sys.modules if name.startswith("distrain")]
"""
    models = [str(run / "model.keras") for run in trained.values()]
    done = subprocess.run(
        [sys.executable, "-c", program, *models], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    measured = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ACCURACY")]
    for run, accuracy in zip(trained.values(), measured, strict=True):
        summary = json.loads((run / "summary.json").read_text())
        assert accuracy == pytest.approx(summary["metrics"]["validation"]["accuracy"], abs=1e-6)


@needs_mnist
def test_the_run_directory_keeps_its_contract(trained: dict[str, Path]) -> None:
    for strategy, run in trained.items():
        for name in ("job.yaml", "plan.json", "events.jsonl", "metrics.jsonl", "summary.json", "model.keras"):
            assert (run / name).is_file(), (strategy, name)
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in metrics:
            assert line.keys() == {"time", "attempt", "epoch", "step", "split", "metrics", "examples_per_s"}
        assert [line["epoch"] for line in metrics if line["split"] == "validation"] == [1, 2, 3]
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        assert undocumented(events) == []
        assert {"host_prepared", "usage", "ready", "checkpoint", "done"} <= {event["kind"] for event in events}
        plan = json.loads((run / "plan.json").read_text())
        for task in plan["tasks"]:
            assert (run / "logs" / f"{task['role']}-{task['index']}.log").is_file()
        assert len(list((run / "checkpoints").iterdir())) == 3
        hidden = {path.name for path in run.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")}
        assert hidden <= {".lock", ".agents"}


LONG = """\
name: long
dataset: {name: digits, batch_size: 32}
training: {epochs: 100000}
strategy: MultiWorkerMirrored
cluster: {workers: 2}
restart: false
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice", "SIGKILL of the launcher", "SIGKILL of a worker"])
def test_training_that_is_stopped_leaves_no_process(tmp_path: Path, how: str) -> None:
    mark = uuid.uuid4().hex
    with (tmp_path / "out").open("w") as out:
        launcher = start(tmp_path, LONG, mark=mark, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")), 60, "the run directory")
        run = the_run(tmp_path)
        wait_until(lambda: (run / "metrics.jsonl").stat().st_size, 60, "the first metrics")
        assert len(marked(mark)) >= 6, "launcher, guard, agent, the process that holds TensorFlow, two workers"
        match how:
            case "Ctrl-C":
                os.kill(launcher.pid, signal.SIGINT)
                asked = time.monotonic()
                assert launcher.wait(20) == 130
                assert time.monotonic() - asked < 4, "the tasks did not end by SIGTERM"
            case "Ctrl-C twice":
                os.kill(launcher.pid, signal.SIGINT)
                os.kill(launcher.pid, signal.SIGINT)
                assert launcher.wait(20) == 130
            case "SIGKILL of the launcher":
                os.kill(launcher.pid, signal.SIGKILL)
                launcher.wait(20)
            case "SIGKILL of a worker":
                events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
                pid = next(e["pid"] for e in events if e["kind"] == "task_started" and e["task"] == "worker:1")
                os.kill(pid, signal.SIGKILL)
                assert launcher.wait(20) == 1
                first = json.loads((run / "summary.json").read_text())["first_failure"]
                assert (first["task"], first["signal"]) == ("worker:1", "SIGKILL")
        wait_until(lambda: not marked(mark), 20, "no process left")
        if "launcher" not in how:
            state = json.loads((run / "summary.json").read_text())["state"]
            assert state == ("failed" if "worker" in how else "stopped")
    finally:
        for process in marked(mark):
            os.kill(process.pid, signal.SIGKILL)
        launcher.wait(10)
