"""Whole runs with real processes and toy tasks, some of which evaluate or prepare examples beside those that train."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from process_table import wait_until

pytestmark = pytest.mark.processes

ONE_AND_AN_EVALUATOR = {"cluster": {"workers": 1, "evaluators": 1}, "strategy": "OneDevice"}
FED = {
    "cluster": {"workers": 2, "data_workers": 2},
    "dataset": {"name": "tfds:mnist", "batch_size": 60},
    "restart": {"max": 3, "backoff_s": 0},
}


def exited(run: Any, task: str) -> bool:
    return any(event["kind"] == "task_exited" and event["task"] == task for event in run.events)


def plan(run: Any) -> dict[str, dict[str, Any]]:
    return {task["task"]: task for task in json.loads((run.rundir / "plan.json").read_text())["tasks"]}


def test_the_run_ends_with_what_the_evaluator_found_last(toy_run: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = toy_run(
        job=ONE_AND_AN_EVALUATOR,
        TOY="ready,train,done",
        TOY_EVALUATOR_0=f"ready,validate=5,after={go},validate=10,done",
    )
    run.all_ready()
    wait_until(lambda: exited(run, "worker:0"), 30, "the end of the training")
    go.touch()
    assert run.wait() == 0
    assert run.processes() == []
    assert run.summary["metrics"] == {"train": {"loss": 0.5}, "validation": {"loss": 10}}
    assert plan(run)["worker:0"]["TF_CONFIG"] is None
    assert plan(run)["evaluator:0"]["address"] is None
    assert undocumented(run.events) == []


def test_an_evaluator_that_is_killed_at_the_end_evaluates_all_the_same(toy_run: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = toy_run(
        job={**ONE_AND_AN_EVALUATOR, "restart": {"max": 1, "backoff_s": 0}},
        TOY="ready,step=100,done",
        TOY_EVALUATOR_0=f"ready,after={go},kill_once={tmp_path}/killed,validate=100,done",
    )
    run.all_ready()
    wait_until(lambda: exited(run, "worker:0"), 30, "the end of the training")
    go.touch()
    assert run.wait() == 0
    assert run.processes() == []
    summary = run.summary
    assert (summary["state"], summary["attempts"], summary["restarts"]) == ("succeeded", 1, 1)
    assert summary["metrics"]["validation"] == {"loss": 100}
    assert run.event("respawning")["task"] == "evaluator:0"


def test_an_evaluator_that_fails_for_good_does_not_fail_the_run(toy_run: Any, tmp_path: Path) -> None:
    go, gone = tmp_path / "go", tmp_path / "gone"
    run = toy_run(
        job=ONE_AND_AN_EVALUATOR,
        TOY=f"ready,train,after={gone},done",
        TOY_EVALUATOR_0=f"ready,after={go},fail=no such metric",
    )
    run.all_ready()
    go.touch()
    wait_until(lambda: exited(run, "evaluator:0"), 30, "the end of the evaluator")
    gone.touch()
    assert run.wait() == 0
    assert run.processes() == []
    assert run.summary["state"] == "succeeded"
    assert run.event("task_exited", "evaluator:0")["expected"] is False
    assert "evaluator:0: ValueError: no such metric; " in run.text
    assert "the run goes on without it" in run.text


def test_ctrl_c_ends_an_evaluator_too(toy_run: Any) -> None:
    run = toy_run(job=ONE_AND_AN_EVALUATOR, TOY="ready,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.processes() == []


def test_data_workers_serve_until_the_training_is_done_and_are_started_again_alone(
    toy_run: Any, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    served = {f"TOY_{name}": "ready,wait" for name in ("DISPATCHER_0", "DATA_0", "DATA_1")}
    run = toy_run(job=FED, TOY=f"ready,step=10,after={go},done", **served)
    run.all_ready()
    os.kill(run.event("task_started", "data:1")["pid"], signal.SIGKILL)

    def is_back() -> bool:
        events = [event["kind"] for event in run.events if event["task"] == "data:1"]
        return events.count("ready") == 2

    wait_until(is_back, 30, "the data worker started again")
    go.touch()
    assert run.wait() == 0
    assert run.processes() == []
    assert (run.summary["attempts"], run.summary["restarts"]) == (1, 1)
    tasks = plan(run)
    assert list(tasks) == ["worker:0", "worker:1", "dispatcher:0", "data:0", "data:1"]
    assert all(task["address"] for task in tasks.values())
    assert tasks["data:0"]["TF_CONFIG"] is None
    assert tasks["worker:1"]["TF_CONFIG"]["cluster"].keys() == {"worker"}
