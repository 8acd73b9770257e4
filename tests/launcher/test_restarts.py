"""Whole runs with real processes and toy tasks that fail and go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from process_table import wait_until

pytestmark = pytest.mark.processes

QUICK = {"restart": {"backoff_s": 0.1}}


def happened(run: Any, kind: str, attempt: int, task: str | None = None) -> bool:
    if not list(run.runs.glob("*/events.jsonl")):
        return False
    return any((e["kind"], e["attempt"]) == (kind, attempt) and task in (None, e["task"]) for e in run.events)


def until(run: Any, kind: str, attempt: int = 1, task: str | None = None) -> None:
    wait_until(lambda: happened(run, kind, attempt, task), 30, f"{kind} of attempt {attempt}")


def pid(run: Any, task: str) -> int:
    return [event["pid"] for event in run.events if event["kind"] == "task_started" and event["task"] == task][-1]


def test_a_killed_task_costs_the_steps_since_the_checkpoint_and_nothing_else(toy_run: Any) -> None:
    run = toy_run(
        job=QUICK,
        TOY="ready,step=15,checkpoint=10,step=23,lines=3,wait",
        TOY_AGAIN="ready,step=11,step=30,lines=2,done",
    )
    until(run, "checkpoint")
    wait_until(lambda: sum(e["kind"] == "progress" and e["step"] == 23 for e in run.events) == 2, 30)
    os.kill(pid(run, "worker:1"), signal.SIGKILL)
    assert run.wait() == 0
    assert run.processes() == []
    assert undocumented(run.events) == []
    summary = run.summary
    assert (summary["state"], summary["attempts"], summary["restarts"]) == ("succeeded", 2, 1)
    assert summary["first_failure"] is None
    assert [(failure["task"], failure["signal"]) for failure in summary["failures"]] == [("worker:1", "SIGKILL")]
    (recovery,) = summary["timings"]["recoveries"]
    assert (recovery["attempt"], recovery["cause"], recovery["task"]) == (1, "crash", "worker:1")
    assert recovery["steps_lost"] == 13
    assert 0 <= recovery["detected_s"] <= recovery["resumed_s"]
    assert QUICK["restart"]["backoff_s"] <= recovery["resumed_s"] < 20
    started = run.event("attempt_started"), [e for e in run.events if e["kind"] == "attempt_started"][1]
    assert [(e["from_step"], e["checkpoint"]) for e in started] == [(0, None), (10, "step-00000010")]
    log = (run.rundir / "logs" / "worker-0.log").read_text()
    assert log.index("worker:0 line 2") < log.index("---- ") < log.rindex("worker:0 line 1")
    assert "restarting after the crash of worker:1: attempt 2 goes on from step 10" in run.text
    assert "attempt 2 has caught up: step 23 again" in run.text
    assert "attempt 1: worker:1: killed by SIGKILL" in run.text


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(toy_run: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = toy_run(
        job=QUICK,
        TOY=f"ready,step=15,checkpoint=10,checkpoint=20,step=23,after={go},kill=9",
        TOY_AGAIN="ready,step=30,done",
    )
    wait_until(lambda: list(run.runs.glob("*/checkpoints/step-00000020/checkpoint.json")), 30)
    until(run, "checkpoint")
    (run.rundir / "checkpoints" / "step-00000020" / "state.npz").write_text("something else")
    go.touch()
    assert run.wait() == 0
    assert [e["from_step"] for e in run.events if e["kind"] == "attempt_started"] == [0, 10]
    assert "step-00000020 is damaged" in run.text


def test_a_task_that_keeps_dying_ends_the_run_when_no_restart_is_left(toy_run: Any) -> None:
    run = toy_run(job={"restart": {"max": 2, "backoff_s": 0.1}}, TOY="ready,step=5,wait", TOY_WORKER_1="ready,kill=11")
    assert run.wait() == 1
    assert run.processes() == []
    assert undocumented(run.events) == []
    assert (run.summary["state"], run.summary["attempts"]) == ("failed", 3)
    assert [failure["attempt"] for failure in run.summary["failures"]] == [1, 2, 3]
    assert run.summary["first_failure"]["attempt"] == 3
    assert "no restart is left" in run.text


def test_an_exception_before_the_first_step_is_not_restarted_from(toy_run: Any) -> None:
    run = toy_run(job=QUICK, TOY="ready,wait", TOY_WORKER_1="ready,fail=bad shapes")
    assert run.wait() == 1
    assert run.summary["attempts"] == 1
    assert "before the first step" in run.text


def test_tasks_asked_to_leave_write_a_checkpoint_and_go_on_from_it(toy_run: Any) -> None:
    run = toy_run(
        job={"restart": {"max": 1, "backoff_s": 30}},
        TOY="ready,leave_when_asked=17,step=16,wait",
        TOY_AGAIN="ready,step=18,done",
    )
    run.all_ready()
    until(run, "progress", 1, "worker:0")
    for task in ("worker:0", "worker:1"):
        os.kill(pid(run, task), signal.SIGTERM)
    assert run.wait() == 0
    assert undocumented(run.events) == []
    assert [failure["kind"] for failure in run.summary["failures"]] == ["preempted"]
    assert run.summary["timings"]["recoveries"][0]["steps_lost"] == 0
    assert [e["from_step"] for e in run.events if e["kind"] == "attempt_started"] == [0, 17]


def test_ctrl_c_leaves_a_checkpoint(toy_run: Any) -> None:
    run = toy_run(job=QUICK, TOY="ready,leave_when_asked=17,step=16,wait")
    run.all_ready()
    until(run, "progress", 1, "worker:0")
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.processes() == []
    assert (run.summary["state"], run.summary["attempts"], run.summary["first_failure"]) == ("stopped", 1, None)
    assert (run.rundir / "checkpoints" / "step-00000017" / "checkpoint.json").exists()
    assert [e["expected"] for e in run.events if e["kind"] == "task_exited"] == [True, True]


def test_ctrl_c_between_two_attempts_ends_the_run(toy_run: Any) -> None:
    run = toy_run(job={"restart": {"backoff_s": 60}}, TOY="ready,step=5,wait", TOY_WORKER_1="ready,step=5,kill=9")
    until(run, "restarting")
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.processes() == []
    assert (run.summary["state"], run.summary["attempts"]) == ("stopped", 1)


def test_an_agent_that_is_killed_is_replaced(toy_run: Any) -> None:
    run = toy_run(job=QUICK, TOY="ready,step=15,checkpoint=10,wait", TOY_AGAIN="ready,step=20,done")
    run.all_ready()
    until(run, "checkpoint")
    _, agent = run.agents()
    os.kill(agent, signal.SIGKILL)
    assert run.wait() == 0
    assert run.processes() == []
    assert undocumented(run.events) == []
    assert [failure["kind"] for failure in run.summary["failures"]] == ["host"]
    assert run.summary["timings"]["recoveries"][0]["cause"] == "host_lost"


def test_a_stopped_task_is_noticed_and_every_stack_is_kept(toy_run: Any) -> None:
    run = toy_run(
        job={**QUICK, "watchdog": {"step_timeout_s": 2}},
        TOY="ready,alive=step,step=15,checkpoint=10,wait",
        TOY_AGAIN="ready,alive=step,step=20,done",
    )
    run.all_ready()
    until(run, "checkpoint")
    os.kill(pid(run, "worker:1"), signal.SIGSTOP)
    assert run.wait() == 0
    assert run.processes() == []
    assert undocumented(run.events) == []
    (failure,) = run.summary["failures"]
    assert (failure["kind"], failure["task"]) == ("hang", "worker:1")
    for index in (0, 1):
        stacks = (run.rundir / "stacks" / "attempt-1" / f"worker-{index}.txt").read_text()
        assert "most recent call first" in stacks
        assert "in wait" in stacks
    assert "stacks/attempt-1/" in run.text


def test_a_loss_that_is_not_a_number_is_rolled_back_behind(toy_run: Any) -> None:
    run = toy_run(
        job={**QUICK, "watchdog": {"nan": "rollback"}},
        TOY="ready,step=15,checkpoint=10,step=16",
        TOY_WORKER_0="ready,step=15,checkpoint=10,checkpoint=20,nan=17",
        TOY_WORKER_1="ready,step=15,wait",
        TOY_WORKER_0_AGAIN="ready,step=20,done",
        TOY_WORKER_1_AGAIN="ready,step=20,done",
    )
    assert run.wait() == 0
    attempts = [e for e in run.events if e["kind"] == "attempt_started"]
    assert [(e["from_step"], e["checkpoint"]) for e in attempts] == [(0, None), (17, "step-00000010")]
    assert run.event("restarting")["cause"] == "nan"


def test_a_worker_of_parameter_servers_is_replaced_while_the_chief_goes_on(toy_run: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = toy_run("ParameterServer", job=QUICK, TOY="ready,wait", TOY_CHIEF_0=f"ready,step=5,after={go},step=9,done")
    run.all_ready()
    first = pid(run, "worker:1")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: [e["kind"] for e in run.events if e["task"] == "worker:1"].count("ready") == 2, 30)
    assert pid(run, "worker:1") != first
    go.touch()
    assert run.wait() == 0
    assert run.processes() == []
    assert undocumented(run.events) == []
    assert (run.summary["attempts"], run.summary["restarts"], run.summary["first_failure"]) == (1, 1, None)
    assert run.summary["timings"]["recoveries"][0]["resumed_s"] is not None
    assert "it is started again by itself" in run.text


def test_a_program_restarts_whole_and_one_that_leaves_at_once_is_counted(toy_run: Any, tmp_path: Path) -> None:
    script = tmp_path / "program.sh"
    script.write_text(
        "mkdir $FOLDER/first-$RANK 2>/dev/null || exit 0\n"
        "if [ $RANK = 0 ]; then exec sleep 1000; fi\n"
        "until [ -d $FOLDER/first-0 ]; do sleep 0.05; done\n"
        "exit $FIRST\n"
    )
    for code, cause in ((42, "preempted"), (9, "crash")):
        folder = tmp_path / str(code)
        folder.mkdir()
        program = {"program": ["sh", str(script)], "cluster": {"workers": 2}}
        run = toy_run(
            job={**QUICK, **program}, drop=("strategy", "dataset", "warm"), FIRST=str(code), FOLDER=str(folder)
        )
        assert run.wait() == 0, run.text
        assert run.processes() == []
        assert run.summary["attempts"] == 2
        told = run.event("restarting")
        assert (told["cause"], told["counted"]) == (cause, True)


def test_a_program_that_always_leaves_at_once_comes_to_an_end(toy_run: Any) -> None:
    program = {"program": ["sh", "-c", "exit 42"], "cluster": {"workers": 1}, "restart": {"max": 2, "backoff_s": 0.1}}
    run = toy_run(job=program, drop=("strategy", "dataset", "warm"))
    assert run.wait() == 1, run.text
    assert (run.summary["attempts"], run.summary["restarts"]) == (3, 2)
    assert "no restart is left" in run.text
