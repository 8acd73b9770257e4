"""Whole runs with real processes and toy tasks: how they end, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from process_table import wait_until

pytestmark = pytest.mark.processes


def test_success_leaves_a_run_directory_and_no_process(toy_run: Any) -> None:
    run = toy_run(TOY="ready,train,done")
    assert run.wait() == 0
    assert run.processes() == []
    assert run.summary["state"] == "succeeded"
    assert run.summary["first_failure"] is None
    assert run.summary["metrics"]["train"] == {"loss": 0.5}
    assert undocumented(run.events) == []
    assert stat.S_IMODE(run.rundir.stat().st_mode) == 0o700
    plan = json.loads((run.rundir / "plan.json").read_text())
    assert [task["task"] for task in plan["tasks"]] == ["worker:0", "worker:1"]
    assert plan["tasks"][1]["TF_CONFIG"]["task"] == {"type": "worker", "index": 1}


def test_parameter_servers_end_with_the_chief(toy_run: Any) -> None:
    run = toy_run("ParameterServer", TOY="ready,wait", TOY_CHIEF_0="ready,train,done")
    assert run.wait() == 0
    assert run.processes() == []
    assert run.summary["state"] == "succeeded"


@pytest.mark.parametrize(
    ("how", "code", "expected"),
    [
        ("fail=no good", 1, {"kind": "exception", "exit_code": 1, "message": "ValueError: no good"}),
        ("exit=7", 1, {"kind": "exit", "exit_code": 7}),
        ("kill=9", 1, {"kind": "signal", "signal": "SIGKILL"}),
        ("kill=11", 1, {"kind": "signal", "signal": "SIGSEGV"}),
        ("exit=0", 1, {"kind": "early_exit", "exit_code": 0}),
        ("refuse=there is no such model", 2, {"kind": "job", "exit_code": 2, "message": "there is no such model"}),
    ],
)
def test_a_task_that_dies_is_the_named_cause(
    toy_run: Any, tmp_path: Path, how: str, code: int, expected: dict[str, Any]
) -> None:
    go = tmp_path / "go"
    run = toy_run(
        TOY_WORKER_1=f"ready,after={go},touch={tmp_path}/dying,{how}", TOY_WORKER_0="ready,ignore_term,children=2,wait"
    )
    run.all_ready()
    go.touch()
    assert run.wait() == code
    assert run.processes() == []
    first = run.summary["first_failure"]
    assert first["task"] == "worker:1"
    assert expected.items() <= first.items()
    if "kill" in how or "exit" in how:
        assert first["log_tail"][-1] == "last words"
    died = (tmp_path / "dying-worker-1").stat().st_mtime
    told, ended = run.event("task_failed")["time"], run.event("run_ended")["time"]
    assert told - died <= 1.0
    assert ended - told <= 5.0
    assert "worker:1" in run.text
    assert undocumented(run.events) == []


def test_ctrl_c_ends_in_order(toy_run: Any) -> None:
    run = toy_run(TOY="ready,children=2,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.processes() == []
    assert run.summary["state"] == "stopped"
    assert run.summary["first_failure"] is None


def test_ctrl_c_twice_ends_at_once(toy_run: Any) -> None:
    run = toy_run(TOY="ready,ignore_term,children=2,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGINT)
    wait_until(lambda: any(event["kind"] == "stopping" for event in run.events), 5, "stopping")
    os.kill(run.launcher.pid, signal.SIGINT)
    assert wait_until(lambda: run.launcher.poll() is not None, 10, "the end") < 3
    assert run.wait() == 130
    assert run.processes() == []
    assert run.summary["state"] == "stopped"


def test_sigterm_ends_in_order(toy_run: Any) -> None:
    run = toy_run(TOY="ready,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGTERM)
    assert run.wait() == 143
    assert run.processes() == []
    assert run.summary["state"] == "stopped"


def test_a_task_that_ignores_sigterm_is_killed(toy_run: Any) -> None:
    run = toy_run(TOY_WORKER_0="ready,ignore_term,children=1,wait", TOY_WORKER_1="ready,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGTERM)
    assert run.wait() == 143
    assert run.processes() == []
    assert run.event("task_exited", "worker:0")["signal"] == "SIGKILL"
    assert run.event("task_exited", "worker:1")["signal"] == "SIGTERM"


def test_a_killed_launcher_leaves_nothing(toy_run: Any) -> None:
    run = toy_run(TOY="ready,ignore_term,children=2,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGKILL)
    run.wait()
    run.none_left(15)


@pytest.mark.parametrize("victim", ["guard", "agent"])
def test_a_killed_agent_leaves_nothing_and_is_named(toy_run: Any, victim: str) -> None:
    run = toy_run(TOY="ready,ignore_term,children=2,wait")
    run.all_ready()
    guard, agent = run.agents()
    os.kill(guard if victim == "guard" else agent, signal.SIGKILL)
    assert run.wait() == 3
    run.none_left()
    assert undocumented(run.events) == []
    assert run.summary["first_failure"]["kind"] == "host"
    assert "local" in run.summary["first_failure"]["message"]


def test_two_runs_at_once_do_not_disturb_each_other(toy_run: Any) -> None:
    long, short = toy_run(TOY="ready,children=1,wait"), toy_run(TOY="ready,children=1,wait")
    long.all_ready()
    short.all_ready()
    assert not long.addresses() & short.addresses()
    os.kill(short.launcher.pid, signal.SIGINT)
    assert short.wait() == 130
    assert short.processes() == []
    # Launcher, guard, agent, two tasks and a child of each.
    assert len(long.processes()) == 7
    os.kill(long.launcher.pid, signal.SIGINT)
    assert long.wait() == 130
    assert long.processes() == []
