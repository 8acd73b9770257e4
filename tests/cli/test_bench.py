"""`distrain bench`, as a person types it: a real sweep, what is told of it, and what keeps it from starting."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_table import wait_until

from distrain.job.spec import JobSpec
from distrain.launcher.bench import chart
from distrain.launcher.bench.measure import Measurement
from distrain.launcher.bench.plan import Combination, Contender
from distrain.launcher.bench.sweep import Sweep

JOB = """
name: tiny
model: {name: mlp, args: {hidden: [8]}}
dataset: {name: digits, batch_size: 32}
strategy: MultiWorkerMirrored
cluster: {workers: 1}
"""
NEVER_FINITE = "{name: sgd, learning_rate: 1.0e+30}"
SLOW = """
import time
import keras


class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.05)
"""
"""Tasks are looked at once a second: one that ends sooner may never have been."""
SHORT = ("--steps", "40", "--set", "training.steps_per_call=5")
DEADLINE_S = 240.0


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@contextmanager
def bench(job: Path, *words: str, folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "distrain", "bench", str(job), "--out", str(folder or job.parent / "out"), *words]
    environment = {**os.environ, "MPLCONFIGDIR": str(job.parent)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=job.parent, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def run(job: Path, *words: str, folder: Path | None = None) -> tuple[int, str, str]:
    with bench(job, *words, folder=folder) as process:
        return ended(process)


@pytest.mark.tensorflow
def test_a_sweep_measures_every_combination_and_says_which_to_take(job: Path) -> None:
    (job.parent / "slow.py").write_text(SLOW)
    words = ("--workers", "1,2", "--steps", "40", "--repeats", "1", "--set", "training.callbacks=slow:Slow")
    code, out, err = run(job, *words, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told == {**json.loads((job.parent / "out" / "bench.json").read_text()), "chart": told["chart"]}
    one, two = told["combinations"]
    assert [each["settings"] for each in (one, two)] == [{"cluster.workers": "1"}, {"cluster.workers": "2"}]
    for each in (one, two):
        assert each["failure"] is None
        assert each["examples_per_s"]["median"] > 0
        assert each["memory_bytes"]["median"] > 50 << 20
        (name,) = each["runs"]
        summary = json.loads((job.parent / "out" / name / "summary.json").read_text())
        assert (summary["steps"], summary["state"]) == (50, "succeeded")
    assert one["sent_bytes_per_step"]["median"] == 0
    assert two["sent_bytes_per_step"]["median"] > 0
    assert set(two["rounds"]["1"]["memory_bytes"]) == {"worker:0", "worker:1"}
    assert two["efficiency"]["median"] == pytest.approx(
        two["examples_per_s"]["median"] / one["examples_per_s"]["median"] / 2
    )
    assert told["recommendation"][0].startswith("Take ")
    assert "round 1/1 · 1 worker: " in err
    if chart.is_possible():
        assert Path(told["chart"]).read_bytes().startswith(b"\x89PNG")
    else:
        assert "distrain[bench]" in err


@pytest.mark.tensorflow
def test_one_that_fails_is_told_and_the_others_go_on(job: Path) -> None:
    vary = ("--vary", f"training.optimizer={NEVER_FINITE},adam", *SHORT, "--repeats", "2")
    code, out, err = run(job, *vary, "--plain")
    assert code == 1, err
    failed, measured = json.loads((job.parent / "out" / "bench.json").read_text())["combinations"]
    assert "is not finite" in failed["failure"] or "loss of step" in failed["failure"]
    assert (len(failed["runs"]), len(measured["runs"])) == (1, 2)
    assert failed["failure"] in out
    assert "examples/s" in out.splitlines()[-2]


@pytest.mark.tensorflow
def test_ctrl_c_ends_it_and_what_was_measured_stays(job: Path) -> None:
    figures = job.parent / "out" / "bench.json"

    def measured() -> bool:
        return figures.exists() and any(each["rounds"] for each in json.loads(figures.read_text())["combinations"])

    with bench(job, "--vary", "training.seed=1,2", *SHORT, "--repeats", "50") as process:
        wait_until(lambda: measured() or process.poll() is not None, DEADLINE_S, "the first run is measured")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert code == 130, err
    told = json.loads(figures.read_text())
    assert told["exit_code"] == 130
    assert told["combinations"][0]["examples_per_s"] is not None
    assert sum(len(each["rounds"]) for each in told["combinations"]) < 20
    assert "seed 1: examples/s" in out
    for summary in (figures.parent / "runs").glob("*/summary.json"):
        assert json.loads(summary.read_text())["state"] in ("succeeded", "stopped")


@pytest.mark.processes
def test_combinations_that_cannot_be_are_all_told_before_anything_starts(job: Path) -> None:
    code, out, err = run(job, "--workers", "1,5", "--vary", "dataset.batch_size=10,32,0")
    assert (code, out) == (2, "")
    assert "does not divide among 5 replicas" in err
    assert "(5 workers, batch_size 32)" in err
    assert "(1 worker, batch_size 0; 5 workers, batch_size 0)" in err
    assert "Traceback" not in err
    assert not (job.parent / "out").exists()


@pytest.mark.processes
def test_a_folder_that_is_in_use_is_left_alone(job: Path) -> None:
    folder = job.parent / "used"
    folder.mkdir()
    (folder / "bench.json").write_text("mine")
    code, _, err = run(job, folder=folder)
    assert (code, (folder / "bench.json").read_text()) == (2, "mine")
    assert "is not empty" in err


def test_without_matplotlib_a_sentence_says_how_to_have_a_chart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chart, "is_possible", lambda: False)
    contender = Contender(Combination({}), JobSpec("tiny"))
    sweep = Sweep([contender], 10, 1, tmp_path / "out", tmp_path / "job.yaml")
    sweep.rows[0].measured[1] = Measurement(100.0, None, {"worker:0": 1})
    assert importlib.import_module("distrain.cli.bench").draw(sweep) is None
    assert "pip install 'distrain[bench]'" in capsys.readouterr().err
