"""An evaluator beside those that train, and tasks that prepare their examples: what becomes of a run when these end,
fail or hang.
"""

from __future__ import annotations

from typing import Any

import pytest
from histories import RESTART, History

from distrain.job.spec import RestartSpec
from distrain.launcher.supervise.actions import AskForStacks, StartTasks, Stop
from distrain.launcher.supervise.state import Phase, TaskState

EVALUATOR = "evaluator:0"


def evaluated(*, host: str = "local", **policy: Any) -> History:
    return History(
        TaskState("worker:0", "local"),
        TaskState("worker:1", "local"),
        TaskState(EVALUATOR, host, aside=True, starts_alone=True),
        chief="worker:0",
        **{"restart": RESTART, **policy},
    )


def fed_and_evaluated() -> History:
    return History(
        TaskState("worker:0", "local"),
        TaskState(EVALUATOR, "local", aside=True, starts_alone=True),
        TaskState("dispatcher:0", "local", serves=True, starts_alone=True),
        TaskState("data:0", "local", serves=True, starts_alone=True),
        chief="worker:0",
        restart=RESTART,
    )


def fed(**policy: Any) -> History:
    return History(
        TaskState("worker:0", "local"),
        TaskState("dispatcher:0", "local", serves=True, starts_alone=True),
        TaskState("data:0", "local", serves=True, starts_alone=True),
        chief="worker:0",
        **{"restart": RESTART, **policy},
    )


def trained(history: History, time: float) -> History:
    """All that train are done and have ended well."""
    names = [task.name for task in history.state.tasks.values() if task.trains]
    for name in reversed(names):
        history.at(time, "done", name).at(time, "task_exited", name, exit_code=0).at(time, "task_cleared", name)
    return history


def alive(history: History, since: float, until: float, *, pulses: bool = True) -> History:
    """Time passes, and the evaluator's threads run."""
    for tenths in range(int(since * 10), int(until * 10)):
        if pulses and tenths % 10 == 0:
            history.at(tenths / 10, "pulse", EVALUATOR, step=20, doing="serving", for_s=1.0)
        history.at(tenths / 10, "tick")
    return history


def started(history: History) -> list[tuple[str, ...]]:
    return [action.tasks for _, action in history.actions if isinstance(action, StartTasks)]


def warnings(history: History) -> list[str]:
    return [tell.data["message"] for tell in history.told("note") if tell.data["level"] == "warning"]


# ---- the end


def test_the_run_waits_for_the_evaluation_of_the_last_checkpoint() -> None:
    history = trained(evaluated().training(23), 10.0)
    assert history.state.phase is Phase.FINISHING
    alive(history.at(10.1, "phase", EVALUATOR, phase="validating"), 10.2, 100.0)
    assert (history.stops, history.over) == ([], False)
    history.at(100.0, "metrics", EVALUATOR, step=23, split="validation", metrics={})
    history.at(100.1, "done", EVALUATOR).at(100.2, "task_exited", EVALUATOR, exit_code=0)
    assert not history.over
    history.at(100.3, "task_cleared", EVALUATOR)
    assert history.over
    assert (history.state.outcome, warnings(history)) == ("succeeded", [])


def test_an_evaluator_may_end_before_the_chief_does() -> None:
    history = evaluated().training(23).at(9.0, "done", EVALUATOR).at(9.1, "task_exited", EVALUATOR, exit_code=0)
    history.at(9.2, "task_cleared", EVALUATOR).at(9.3, "tick")
    assert history.state.phase is Phase.RUNNING
    assert trained(history, 10.0).over
    assert history.state.outcome == "succeeded"


def test_others_that_do_not_end_are_stopped_once_nobody_evaluates() -> None:
    history = evaluated().training(23)
    history.at(10.0, "done", "worker:0").at(10.0, "task_exited", "worker:0", exit_code=0)
    alive(history, 10.1, 40.0)
    assert history.stops == []
    history.at(40.0, "done", EVALUATOR).at(40.0, "task_exited", EVALUATOR, exit_code=0)
    history.at(40.0, "task_cleared", EVALUATOR).at(49.0, "tick")
    assert [stop for _, stop in history.stops if not stop.tasks] == []
    history.at(50.1, "tick")
    assert history.stops[-1] == (50.1, Stop(grace_s=3.0))


def test_an_evaluator_that_hears_of_no_last_checkpoint_is_not_waited_for_forever() -> None:
    history = alive(trained(evaluated().training(23), 10.0), 10.1, 909.0)
    assert history.stops == []
    alive(history, 909.0, 912.0)
    assert [stop for _, stop in history.stops] == [Stop((EVALUATOR,), grace_s=3.0)]
    (warning,) = warnings(history)
    assert warning.endswith("the run goes on without it")
    history.killed(912.5, EVALUATOR, "SIGTERM").at(912.6, "task_cleared", EVALUATOR)
    assert (history.over, history.state.outcome) == (True, "succeeded")


def test_ctrl_c_stops_the_evaluator_after_those_that_train() -> None:
    history = evaluated().training(23).at(10.0, "signal", number=2)
    assert history.stops == [(10.0, Stop(("worker:0", "worker:1"), grace_s=8.0))]
    history.killed(10.5, "worker:0", "SIGTERM").killed(10.6, "worker:1", "SIGTERM")
    assert history.stops[1:] == [(10.6, Stop((EVALUATOR,), grace_s=0.0))]
    assert history.down(10.7).over


def test_a_failure_of_those_that_train_stops_the_evaluator_too() -> None:
    history = evaluated().training(23).killed(10.0, "worker:1")
    assert history.stops == [(10.0, Stop(grace_s=0.0, again=True))]
    history.down(10.1).chosen(10.2, 20).at(11.1, "tick")
    assert started(history) == [()]
    assert history.state.attempt == 2


def test_an_evaluator_has_no_part_in_leaving() -> None:
    history = evaluated().training(23).at(10.0, "preempted", "worker:0", step=24)
    assert history.stops == []
    history.at(10.4, "task_exited", "worker:1", exit_code=42).at(10.5, "task_exited", "worker:0", exit_code=42)
    assert history.stops == [(10.5, Stop((EVALUATOR,), grace_s=0.0, again=True))]


# ---- failures of its own


def test_an_evaluator_that_dies_is_started_again_alone() -> None:
    history = evaluated().training(23).killed(10.0, EVALUATOR)
    assert history.told("respawning")[0].task == EVALUATOR
    history.at(10.1, "task_cleared", EVALUATOR).at(11.1, "tick")
    assert started(history) == [(EVALUATOR,)]
    assert (history.stops, history.told("task_failed")) == ([], [])
    assert (history.state.restarts, history.state.restarted) == ((), 1)


def test_it_is_started_again_after_the_others_are_done_too() -> None:
    history = trained(evaluated().training(23), 10.0).killed(10.5, EVALUATOR).at(10.6, "task_cleared", EVALUATOR)
    assert not history.over
    history.at(11.6, "tick")
    assert started(history) == [(EVALUATOR,)]
    history.at(12.0, "task_started", EVALUATOR, pid=7)
    alive(history.at(15.0, "ready", EVALUATOR), 15.1, 30.0)
    assert history.stops == []
    history.at(30.0, "done", EVALUATOR).at(30.1, "task_exited", EVALUATOR, exit_code=0)
    assert history.at(30.2, "task_cleared", EVALUATOR).over
    assert history.state.outcome == "succeeded"


def test_in_the_end_the_run_goes_on_without_it() -> None:
    history = evaluated(restart=RestartSpec(max=1, backoff_s=1.0)).training(23).killed(10.0, EVALUATOR)
    history.at(10.1, "task_cleared", EVALUATOR).at(11.1, "tick").at(12.0, "ready", EVALUATOR)
    history.killed(20.0, EVALUATOR).at(20.1, "task_cleared", EVALUATOR).at(30.0, "tick")
    (warning,) = warnings(history)
    assert warning == (
        "killed by SIGKILL; no restart is left: restart.max is 1 within 3600 s; the run goes on without it"
    )
    assert (history.state.phase, history.stops, history.told("task_failed")) == (Phase.RUNNING, [], [])
    # What it has used up is its own: those that train still have their restart.
    history.killed(40.0, "worker:1").down(40.1).chosen(40.2, 20).at(41.1, "tick")
    assert history.state.attempt == 2
    assert history.state.tasks[EVALUATOR].given_up is False


@pytest.mark.parametrize(
    ("said", "exit_code"),
    [({"message": "no examples for validation", "job_error": True}, 2), ({"message": "ValueError: x"}, 1)],
)
def test_one_that_could_only_fail_again_is_missed_at_once(said: dict[str, Any], exit_code: int) -> None:
    history = evaluated().running().at(4.0, "failure", EVALUATOR, **said)
    history.at(4.1, "task_exited", EVALUATOR, exit_code=exit_code).at(4.2, "task_cleared", EVALUATOR).at(4.9, "tick")
    assert said["message"] in warnings(history)[0]
    assert (history.state.phase, history.stops, history.told("task_failed")) == (Phase.RUNNING, [], [])
    assert trained(history, 30.0).over
    assert history.state.outcome == "succeeded"


def test_without_restarts_it_is_missed_at_once() -> None:
    history = evaluated(restart=None).training(23).killed(10.0, EVALUATOR).at(10.1, "task_cleared", EVALUATOR)
    assert warnings(history) == ["killed by SIGKILL; the run goes on without it"]
    assert trained(history, 30.0).over
    assert history.state.exit_code == 0


def test_one_that_does_not_get_ready_is_no_failure_of_the_run() -> None:
    history = evaluated(start_timeout_s=60.0).running()
    history.killed(5.0, EVALUATOR).at(5.1, "task_cleared", EVALUATOR).at(6.1, "tick").training(5, time=7.0)
    for seconds in range(8, 70):
        history.at(float(seconds), "progress", "worker:0", step=seconds).at(float(seconds), "tick")
    assert (history.told("task_failed"), history.state.phase) == ([], Phase.RUNNING)
    assert warnings(history)[0].startswith("not ready after 60 s: waiting for evaluator:0 on local")


# ---- hangs


def steps(history: History, since: int, until: int, *, pulses: bool) -> History:
    """Those that train go on, and the evaluator waits."""
    for second in range(since, until):
        for name in ("worker:0", "worker:1"):
            history.at(float(second), "progress", name, step=second)
            history.at(float(second), "pulse", name, step=second, doing="step", for_s=0.1)
        if pulses:
            history.at(float(second), "pulse", EVALUATOR, step=20, doing="python", for_s=float(second))
        for tenths in range(10):
            history.at(second + tenths / 10, "tick")
    return history


def test_an_evaluator_that_waits_is_not_taken_for_hung() -> None:
    history = steps(evaluated().training(23), 30, 900, pulses=True)
    assert (history.told("respawning"), history.told("task_failed"), history.stops) == ([], [], [])


def test_an_evaluator_is_not_blamed_for_a_hang_of_the_others() -> None:
    history = steps(evaluated().training(23), 30, 60, pulses=True)
    for second in range(60, 200):
        for name in history.state.tasks:
            doing = "python" if name == EVALUATOR else "step"
            history.at(float(second), "pulse", name, step=59, doing=doing, for_s=1.0)
        for tenths in range(10):
            history.at(second + tenths / 10, "tick")
    (told,) = history.told("task_failed")
    assert told.data["kind"] == "hang"
    assert EVALUATOR not in told.data["message"]


def test_a_silent_evaluator_is_ended_and_started_again() -> None:
    history = steps(steps(evaluated().training(23), 30, 40, pulses=True), 40, 52, pulses=False)
    assert [action.tasks for _, action in history.actions if isinstance(action, AskForStacks)] == [(EVALUATOR,)]
    assert {stop.tasks for _, stop in history.stops} == {(EVALUATOR,)}
    assert history.told("task_failed") == []


def test_an_evaluation_that_takes_far_longer_than_the_others_is_a_hang() -> None:
    history = evaluated().training(23).at(30.0, "phase", EVALUATOR, phase="validating")
    history.at(32.0, "metrics", EVALUATOR, step=20, split="validation", metrics={})
    steps(history.at(33.0, "phase", EVALUATOR, phase="validating"), 33, 632, pulses=True)
    assert history.told("respawning") == []
    steps(history, 632, 640, pulses=True)
    assert history.told("respawning")[0].data["cause"] == "hang"


# ---- tasks that prepare examples


@pytest.mark.parametrize("victim", ["dispatcher:0", "data:0"])
def test_who_prepares_examples_is_started_again_alone(victim: str) -> None:
    history = fed().training(23).killed(10.0, victim).at(10.1, "task_cleared", victim).at(11.1, "tick")
    assert started(history) == [(victim,)]
    assert (history.stops, history.told("task_failed")) == ([], [])
    assert len(history.state.restarts) == 1


def test_without_them_nobody_trains() -> None:
    history = fed(restart=None).training(23).killed(10.0, "data:0")
    assert history.told("task_failed")[0].task == "data:0"
    assert history.down(10.1).over
    assert history.state.exit_code == 1


def test_they_are_stopped_when_the_training_is_done() -> None:
    history = trained(fed().training(23), 10.0)
    assert history.stops == [(10.0, Stop(("dispatcher:0", "data:0"), grace_s=3.0))]
    assert history.down(10.5).over
    assert history.state.outcome == "succeeded"


def test_they_serve_until_the_evaluator_needs_them_no_more() -> None:
    history = alive(trained(fed_and_evaluated().training(23), 10.0), 10.1, 60.0)
    assert history.stops == []
    history.at(60.0, "done", EVALUATOR).at(60.1, "task_exited", EVALUATOR, exit_code=0)
    history.at(60.2, "task_cleared", EVALUATOR).at(60.3, "tick")
    serving = ("dispatcher:0", "data:0")
    assert [(time, stop.tasks) for time, stop in history.stops if EVALUATOR not in stop.tasks] == [(60.3, serving)]
    assert history.down(60.5).over
    assert history.state.outcome == "succeeded"


def test_one_of_them_that_fails_while_the_last_checkpoint_is_evaluated_is_started_again() -> None:
    history = alive(trained(fed_and_evaluated().training(23), 10.0), 10.1, 20.0).killed(20.0, "data:0")
    history.at(20.1, "task_cleared", "data:0").at(21.1, "tick")
    assert started(history) == [("data:0",)]
    assert (history.over, history.told("task_failed")) == (False, [])


def test_parameter_servers_are_stopped_before_the_evaluator_has_ended() -> None:
    history = History(
        TaskState("chief:0", "local"),
        TaskState("worker:0", "local", serves=True, starts_alone=True),
        TaskState("ps:0", "local", serves=True),
        TaskState(EVALUATOR, "local", aside=True, starts_alone=True),
        chief="chief:0",
        restart=RESTART,
    )
    trained(history.training(23), 10.0)
    assert history.stops == [(10.0, Stop(("worker:0", "ps:0"), grace_s=3.0))]
    history.killed(10.2, "worker:0", "SIGTERM").killed(10.2, "ps:0", "SIGTERM").at(10.3, "task_cleared", "worker:0")
    alive(history.at(10.3, "task_cleared", "ps:0"), 10.4, 30.0)
    assert (history.told("respawning"), len(history.stops), history.over) == ([], 1, False)
