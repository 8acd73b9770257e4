"""A whole run with real tasks: one that trains, one that evaluates its checkpoints, and a service for its examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from documented_events import undocumented
from process_table import MARK, marked

from distrain.wire import SCRATCH

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes, pytest.mark.timeout(400)]

EXAMPLES = """\
import tensorflow as tf


def numbered(first, last):
    def example(number):
        x = tf.random.stateless_uniform([8], seed=[7, number])
        return x, tf.cast(tf.reduce_sum(x) > 4.0, tf.int32)

    return tf.data.Dataset.range(first, last).map(example)


def load():
    return numbered(0, 256), numbered(256, 320)
"""
JOB = """\
name: beside
model: {name: mlp, hidden: [16], classes: 2}
dataset: {name: "examples:load", batch_size: 32}
training: {epochs: 2}
strategy: OneDevice
cluster: {evaluators: 1, data_workers: 2}
checkpoint: {every_epochs: 1}
"""


def test_one_trains_another_evaluates_and_others_prepare_the_examples(tmp_path: Path) -> None:
    (tmp_path / "examples.py").write_text(EXAMPLES)
    (tmp_path / "job.yaml").write_text(JOB)
    mark = uuid.uuid4().hex
    ran = subprocess.run(
        [sys.executable, "-m", "distrain", "run", "job.yaml", "--plain"],
        cwd=tmp_path,
        env={**os.environ, MARK: mark},
        capture_output=True,
        text=True,
        timeout=360,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert marked(mark) == []
    (rundir,) = (tmp_path / "runs").iterdir()
    assert not (rundir / SCRATCH).exists(), "the dispatcher's journal is gone"
    summary = json.loads((rundir / "summary.json").read_text())
    assert (summary["state"], summary["steps"], summary["restarts"]) == ("succeeded", 16, 0)
    events = [json.loads(line) for line in (rundir / "events.jsonl").read_text().splitlines()]
    assert undocumented(events) == []
    validation = [event for event in events if event["kind"] == "metrics" and event["split"] == "validation"]
    assert {event["task"] for event in validation} == {"evaluator:0"}
    assert validation[-1]["step"] == 16
    assert summary["metrics"]["validation"] == validation[-1]["metrics"]
    ended = {event["task"]: event for event in events if event["kind"] == "task_exited"}
    assert ended.keys() == {"worker:0", "evaluator:0", "dispatcher:0", "data:0", "data:1"}
    assert all(event["expected"] for event in ended.values())
