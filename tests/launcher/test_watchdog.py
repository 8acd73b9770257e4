"""Runs that make no steps any more: how long that is borne, who is named, and that stacks come before the end."""

from __future__ import annotations

import math
from typing import Any

import pytest
from histories import History

from distrain.job.spec import RestartSpec, WatchdogSpec
from distrain.launcher.supervise.actions import AskForStacks, StartTasks, Stop
from distrain.launcher.supervise.state import Phase, TaskState
from distrain.launcher.supervise.watchdog import FIRST_STEP, Watch, culprits

RESTART = RestartSpec(max=3)


def workers(count: int = 2, **policy: Any) -> History:
    tasks = (TaskState(f"worker:{index}", "local") for index in range(count))
    return History(*tasks, chief="worker:0", **{"restart": RESTART, **policy})


def stepping(history: History, until: float, *, every_s: float = 0.5, doing: str = "step") -> History:
    """Steps are made until then, from 4.0 on, with the first at 5.0 and pulses every second."""
    if history.state.phase is not Phase.RUNNING:
        history.running()
    time, step = 5.0, 0
    trains = [task.name for task in history.state.tasks.values() if task.trains]
    while time <= until:
        step += 10
        for name in trains:
            history.at(time, "progress", name, step=step)
        for name in history.state.tasks:
            history.at(time, "pulse", name, step=step, doing=doing, for_s=0.1)
        for tick in range(int(2 * every_s)):
            history.at(time + tick / 2, "tick")
        time += every_s
    history.actions.clear()
    return history


def stand_still(history: History, since: float, until: float, **doing: str) -> History:
    """Pulses that tell of no new step, of the tasks named so (`worker_0`), and ticks."""
    time = since
    while time < until:
        for name, what in doing.items():
            task = name.replace("_", ":")
            step = history.state.tasks[task].step
            history.at(time, "pulse", task, step=step, doing=what, for_s=time - since)
        history.at(time, "tick")
        time += 0.5
    return history


# ---- how long


def stopped(history: History, time: float, name: str) -> History:
    return history.at(time, "usage", name, memory_bytes=1, cpu_s=1.0, stopped=True)


def test_who_is_stopped_is_noticed_after_ten_seconds() -> None:
    history = stopped(stepping(workers(), 20.0), 20.4, "worker:1")
    assert stand_still(history, 20.5, 29.9, worker_0="step").told("task_failed") == []
    stand_still(history, 30.0, 31.0, worker_0="step")
    (told,) = history.told("task_failed")
    assert (told.task, told.data["kind"]) == ("worker:1", "hang")
    assert "it stands still" in told.data["message"]


@pytest.mark.parametrize(("what", "limit_s"), [("step", 60.0), ("python", 600.0)])
def test_short_steps_do_not_make_impatient_above_all_not_with_a_callback(what: str, limit_s: float) -> None:
    history = stand_still(stepping(workers(), 20.0), 20.5, 19.9 + limit_s, worker_0="step", worker_1=what)
    assert history.told("task_failed") == []
    stand_still(history, 20.0 + limit_s, 21.0 + limit_s, worker_0="step", worker_1=what)
    (told,) = history.told("task_failed")
    assert told.data["kind"] == "hang"
    assert told.task == ("worker:1" if what == "python" else None)
    assert "set watchdog.step_timeout_s to more" in told.data["message"]


def test_long_steps_are_given_long() -> None:
    history = stepping(workers(), 100.0, every_s=5.0)
    assert stand_still(history, 100.5, 195.0, worker_0="step").told("task_failed") == []
    assert stand_still(history, 195.0, 201.0, worker_0="step").told("task_failed") != []


def test_a_job_says_how_long_itself() -> None:
    history = stepping(workers(watchdog=WatchdogSpec(step_timeout_s=3.0)), 20.0)
    assert stand_still(history, 20.5, 23.9).told("task_failed") != []
    never = stepping(workers(watchdog=WatchdogSpec(step_timeout_s=0)), 20.0)
    assert stand_still(never, 20.5, 3000.0).told("task_failed") == []


def test_compiling_takes_its_time_before_the_first_step() -> None:
    history = stand_still(workers().running(), 3.5, 899.0)
    assert history.told("task_failed") == []
    assert stand_still(history, 899.0, 905.0).told("task_failed")[0].data["kind"] == "hang"


def test_a_phase_that_was_never_seen_to_end_may_last_and_one_that_was_is_known() -> None:
    history = stepping(workers(), 20.0).at(20.5, "phase", "worker:0", phase="validating")
    assert stand_still(history, 21.0, 65.0).told("task_failed") == []
    history.at(65.0, "phase", "worker:0", phase="training")
    for name in ("worker:0", "worker:1"):
        history.at(65.5, "progress", name, step=5000)
    history.at(66.0, "phase", "worker:0", phase="validating")
    assert stand_still(history, 66.5, 199.0).told("task_failed") == [], "three times as long as before"
    assert stand_still(history, 199.5, 201.0).told("task_failed") != []


def test_a_launcher_that_stood_still_itself_blames_nobody() -> None:
    history = stepping(workers(), 20.0).at(500.0, "tick")
    assert history.told("task_failed") == []
    assert stand_still(history, 500.1, 562.0).told("task_failed") != []


def test_who_is_done_is_not_waited_for() -> None:
    history = stepping(workers(), 20.0).at(20.1, "done", "worker:0").at(20.1, "done", "worker:1")
    assert stand_still(history, 20.5, 100.0).told("task_failed") == []


def test_programs_are_watched_when_the_job_says_for_how_long() -> None:
    def program(**policy: Any) -> History:
        history = History(TaskState("worker:0", "local", speaks=False), chief="worker:0", restart=RESTART, **policy)
        history.at(1.0, "host_prepared", host="local").at(1.5, "task_started", "worker:0", pid=1)
        for step in range(1, 10):
            history.at(2.0 + step, "progress", "worker:0", step=step)
        return stand_still(history, 11.5, 300.0)

    assert program().told("task_failed") == []
    assert program(watchdog=WatchdogSpec(step_timeout_s=30.0)).told("task_failed")[0].data["kind"] == "hang"


def test_limits() -> None:
    watch = Watch(moved_at=0.0, stepped=True, gaps_s=(0.2, 0.3, 9.0), longest_s={"training": 2.0, FIRST_STEP: 4.0})
    trains, saves = task("worker:0", doing="training"), task("worker:1", doing="saving")
    assert watch.limit_s([trains], fixed_s=None, start_timeout_s=900) == 60.0
    assert watch.limit_s([trains, saves], fixed_s=None, start_timeout_s=900) == 900
    assert watch.limit_s([trains], fixed_s=7.0, start_timeout_s=900) == 7.0
    assert watch.limit_s([trains], fixed_s=0.0, start_timeout_s=900) == math.inf
    slow = Watch(moved_at=0.0, stepped=True, gaps_s=(5.0,), longest_s={"training": 50.0})
    assert slow.limit_s([trains], fixed_s=None, start_timeout_s=900) == 150.0
    fresh = watch.over().begun(5.0)
    assert fresh.limit_s([trains], fixed_s=7.0, start_timeout_s=900) == 60.0
    assert Watch(0.0).limit_s([], fixed_s=None, start_timeout_s=900) == 900


# ---- who


def task(name: str, **known: Any) -> TaskState:
    return TaskState(name, "local", **{"pulse_at": 100.0, "busy": "step", **known})


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"stopped": True}, "SIGSTOP"),
        ({"pulse_at": 90.0}, "no thread of it has said anything for 10 s"),
        ({"busy": "python"}, "in Python code"),
    ],
)
def test_the_one_that_stands_out_is_named(known: dict[str, Any], why: str) -> None:
    names, told = culprits([task("worker:0"), task("worker:1", **known)], 100.0)
    assert names == ("worker:1",)
    assert why in told


def test_where_nobody_stands_out_all_are_named() -> None:
    for busy in ("step", "python"):
        names, _ = culprits([task("worker:0", busy=busy), task("worker:1", busy=busy)], 100.0)
        assert names == ("worker:0", "worker:1")


# ---- what follows


def hung() -> History:
    history = stopped(stepping(workers(), 20.0), 20.4, "worker:1")
    return stand_still(history, 20.5, 31.0, worker_0="step").at(31.0, "usage", "worker:0")


def test_stacks_are_asked_for_before_anything_is_stopped() -> None:
    history = hung()
    assert [action.tasks for _, action in history.actions if isinstance(action, AskForStacks)] == [
        ("worker:0", "worker:1")
    ]
    assert history.stops == []
    history.at(31.1, "stacks", "worker:0", path="x")
    assert history.stops == []
    history.at(31.2, "stacks", "worker:1", path="x")
    assert history.stops == [(31.2, Stop(grace_s=0.0, again=True))]
    history.down(31.3).chosen(31.4, 300)
    assert history.told("restarting")[0].data["cause"] == "hang"
    assert history.told("restarting")[0].data["detected_s"] > 9.9


def test_a_task_that_dies_with_its_stacks_on_their_way_is_not_waited_for() -> None:
    history = hung().at(31.1, "stacks", "worker:0", path="x").killed(31.2, "worker:1")
    assert history.stops == [(31.2, Stop(grace_s=0.0, again=True))]


# ---- parameter servers


def servers() -> History:
    workers = [TaskState(f"worker:{index}", "local", serves=True, starts_alone=True) for index in range(2)]
    tasks = [TaskState("chief:0", "local"), *workers, TaskState("ps:0", "local", serves=True)]
    return stepping(History(*tasks, chief="chief:0", restart=RESTART), 20.0, doing="serving")


def chief_goes_on(history: History, since: float, until: float, **doing: str) -> History:
    time, step = since, 10_000
    while time < until:
        step += 1
        history.at(time, "progress", "chief:0", step=step)
        stand_still(history, time, time + 0.4, chief_0="step", **doing)
        time += 0.5
    return history


def test_a_silent_worker_is_ended_and_respawned_while_the_others_go_on() -> None:
    history = chief_goes_on(servers(), 20.5, 31.0, worker_0="serving", ps_0="serving")
    (told,) = history.told("respawning")
    assert (told.task, told.data["cause"]) == ("worker:1", "hang")
    assert [action.tasks for _, action in history.actions if isinstance(action, AskForStacks)] == [("worker:1",)]
    history.at(31.1, "stacks", "worker:1", path="x")
    assert history.stops == [(31.1, Stop(("worker:1",), grace_s=0.0, again=True))]
    history.killed(31.2, "worker:1").at(31.3, "task_cleared", "worker:1")
    chief_goes_on(history, 31.5, 33.0, worker_0="serving", ps_0="serving")
    assert StartTasks(("worker:1",)) in [action for _, action in history.actions]
    assert history.told("task_failed") == []


def test_a_silent_server_restarts_everything() -> None:
    history = chief_goes_on(servers(), 20.5, 31.0, worker_0="serving", worker_1="serving")
    (told,) = history.told("task_failed")
    assert (told.task, told.data["kind"]) == ("ps:0", "hang")
