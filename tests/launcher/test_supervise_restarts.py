"""What `decide` makes of failures that a run goes on after: when, from where, how often, and when it does not."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from histories import History, crashed_once, on_hosts, parameter_server, program, workers

from distrain.job.plan import Resume
from distrain.job.spec import RestartSpec, WatchdogSpec
from distrain.launcher.supervise.actions import (
    AskForStacks,
    ChooseCheckpoint,
    ConnectHosts,
    DropHosts,
    OpenHosts,
    Reshape,
    SendCheckpoint,
    StartTasks,
    Stop,
)
from distrain.launcher.supervise.state import Phase, TaskState

# ---- a crash


def test_a_killed_worker_restarts_the_attempt_from_the_newest_checkpoint() -> None:
    history = workers().training(23).killed(10.0, "worker:1")
    assert history.told("task_failed")[0].task == "worker:1"
    assert history.stops == [(10.0, Stop(grace_s=0.0, again=True))], "workers of ours lose nothing by a sudden end"
    history.down(10.1)
    assert history.took(ChooseCheckpoint) == [10.1]
    history.chosen(10.2, 20)
    (told,) = history.told("restarting")
    assert (told.task, told.data["cause"], told.data["next_attempt"]) == ("worker:1", "crash", 2)
    assert (told.data["from_step"], told.data["furthest"], told.data["wait_s"]) == (20, 23, 0.8)
    assert history.took(SendCheckpoint) == [10.2]
    history.at(10.9, "tick")
    assert history.took(StartTasks) == []
    history.at(11.0, "tick")
    assert history.took(StartTasks) == [11.0], "the pause counts from the failure"
    assert (history.state.attempt, history.state.phase) == (2, Phase.RUNNING)
    assert history.state.restart is not None
    assert history.state.restart.resume == Resume("step-00000020")
    assert history.state.first_failure is None


def test_without_a_checkpoint_it_begins_anew() -> None:
    history = workers().training(3).killed(10.0, "worker:0").down(10.1).chosen(10.2, None).at(11.0, "tick")
    assert history.took(StartTasks) == [11.0]
    assert history.took(SendCheckpoint) == []
    assert history.state.restart is not None
    assert history.state.restart.resume is None


def test_a_run_that_recovered_and_succeeded_has_no_first_failure_but_remembers_it() -> None:
    history = crashed_once(workers().training(23), 10.0, 20)
    for name in ("worker:1", "worker:0"):
        history.at(90.0, "done", name).at(90.1, "task_exited", name, exit_code=0)
    history.cleared(90.2)
    assert history.over
    assert (history.state.outcome, history.state.exit_code, history.state.first_failure) == ("succeeded", 0, None)
    assert [(failure.task, failure.attempt) for failure in history.state.past] == [("worker:1", 1)]


def test_consequences_alone_are_restarted_from_too() -> None:
    history = workers().training(23)
    history.at(10.0, "failure", "worker:0", message="UnavailableError: peer").at(10.1, "task_exited", "worker:0")
    assert history.stops == []
    history.at(10.5, "tick")
    assert history.stops == [(10.5, Stop(grace_s=0.0, again=True))]


def test_a_damaged_checkpoint_is_told_of() -> None:
    history = workers().training(23).killed(10.0, "worker:1").down(10.1)
    history.at(10.2, "checkpoint_chosen", name="step-00000010", step=10, damaged=("step 20 is damaged",))
    assert [note.data["message"] for note in history.told("note")] == ["step 20 is damaged"]


def test_the_second_restart_in_a_row_waits_twice_as_long() -> None:
    history = crashed_once(workers().training(23), 10.0, 20)
    history.actions.clear()
    history.killed(71.5, "worker:0").down(71.6).chosen(71.7, 20).at(73.4, "tick")
    assert history.took(StartTasks) == []
    assert history.at(73.5, "tick").took(StartTasks) == [73.5]
    assert history.state.attempt == 3


def test_after_so_many_restarts_it_ends_with_the_last_failure() -> None:
    history = workers(restart=RestartSpec(max=1)).training(23)
    crashed_once(history, 10.0, 20)
    history.actions.clear()
    history.killed(80.0, "worker:0")
    assert "no restart is left" in history.told("stopping")[0].data["reason"]
    assert history.stops == [(80.0, Stop(grace_s=3))]
    history.down(80.1)
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("failed", 1)
    assert [failure.attempt for failure in history.state.past] == [1]
    assert history.state.first_failure is not None
    assert history.state.first_failure.attempt == 2


def test_restarts_of_long_ago_do_not_count() -> None:
    history = workers(restart=RestartSpec(max=1, window_s=100.0)).training(23)
    crashed_once(history, 10.0, 20).killed(120.0, "worker:1").down(120.1)
    assert history.state.phase is Phase.WAITING


def test_an_epoch_that_no_attempt_had_finished_sets_the_count_back() -> None:
    history = crashed_once(workers().training(23), 10.0, 20)
    assert len(history.state.restarts) == 1
    assert len(history.training(29, time=80.0).state.restarts) == 1
    assert len(history.training(30, time=81.0).state.restarts) == 0


def test_an_epoch_done_for_a_second_time_does_not() -> None:
    history = crashed_once(workers().training(35), 10.0, 20)
    assert len(history.training(34, time=80.0).state.restarts) == 1
    assert len(history.training(40, time=81.0).state.restarts) == 0


def test_a_failure_that_the_job_does_not_list_ends_the_run() -> None:
    history = workers(restart=RestartSpec(on=("preempted",))).training(5).killed(10.0, "worker:1").down(10.1)
    assert history.over
    assert "restart.on does not list crash" in history.told("stopping")[0].data["reason"]


def test_without_restart_the_run_ends() -> None:
    assert workers(restart=None).training(5).killed(10.0, "worker:1").down(10.1).over


# ---- what would only come again


def test_an_exception_before_the_first_step_is_the_jobs_own() -> None:
    history = workers().running().at(5.0, "failure", "worker:0", message="ValueError: shapes")
    history.at(5.1, "task_exited", "worker:0", exit_code=1).down(5.2)
    assert history.over
    assert "before the first step" in history.told("stopping")[0].data["reason"]


def test_a_worker_that_cannot_be_imported_is_not_started_again() -> None:
    history = workers().at(1.0, "host_prepared", host="local").at(1.5, "task_exited", "worker:0", exit_code=1)
    assert history.down(1.6).over


def test_a_crash_before_the_first_step_is_not_the_jobs() -> None:
    assert workers().running().killed(5.0, "worker:1").down(5.1).state.phase is Phase.WAITING


def test_an_exception_before_the_first_step_of_a_later_attempt_may_be_the_machines() -> None:
    history = crashed_once(workers().training(23), 10.0, 20)
    history.at(72.0, "failure", "worker:0", message="OSError: disk").at(72.1, "task_exited", "worker:0", exit_code=1)
    assert history.down(72.2).state.phase is Phase.WAITING


def raises(history: History, time: float, message: str, step: int) -> History:
    history.at(time, "failure", "worker:0", message=message, step=step)
    return history.at(time + 0.1, "task_exited", "worker:0", exit_code=1).down(time + 0.2)


def test_the_same_exception_at_the_same_step_is_not_tried_a_third_time() -> None:
    history = raises(workers().training(23), 10.0, "ValueError: x", 24).chosen(10.3, 20).at(20.0, "tick")
    assert history.state.attempt == 2
    raises(history.ready_again(21.0), 30.0, "ValueError: x", 24)
    assert history.over
    assert "the same came at the same step before" in history.told("stopping")[-1].data["reason"]


@pytest.mark.parametrize(("message", "step"), [("ValueError: y", 24), ("ValueError: x", 25)])
def test_another_exception_or_another_step_is(message: str, step: int) -> None:
    history = raises(workers().training(23), 10.0, "ValueError: x", 24).chosen(10.3, 20).at(20.0, "tick")
    assert raises(history.ready_again(21.0), 30.0, message, step).state.phase is Phase.WAITING


def test_a_job_at_fault_and_a_command_not_found_are_never_restarted() -> None:
    at_fault = workers().training(5).at(10.0, "failure", "worker:0", message="no such file", job_error=True)
    assert at_fault.at(10.1, "task_exited", "worker:0", exit_code=2).down(10.2).over
    missing = program("worker:0").at(1.0, "host_prepared", host="local")
    assert missing.at(1.1, "task_exited", "worker:0", exit_code=127, message="not found").down(1.2).over


# ---- programs


def test_a_program_restarts_with_grace_and_without_a_checkpoint() -> None:
    history = program("worker:0", "worker:1").at(1.0, "host_prepared", host="local")
    for name in ("worker:0", "worker:1"):
        history.at(1.5, "task_started", name, pid=1)
    history.at(50.0, "task_exited", "worker:1", exit_code=9)
    assert history.stops == [(50.0, Stop(grace_s=3, again=True))]
    history.down(50.2).chosen(50.2, None).at(51.0, "tick")
    assert history.took(StartTasks) == [1.0, 51.0]


def test_a_script_that_fails_at_once_is_not_restarted() -> None:
    history = program("worker:0").at(1.0, "host_prepared", host="local").at(1.5, "task_started", "worker:0", pid=1)
    history.at(3.0, "failure", "worker:0", message="ModuleNotFoundError: no module")
    assert history.at(3.1, "task_exited", "worker:0", exit_code=1).down(3.2).over


# ---- preemption


def test_preempted_workers_end_by_themselves_and_the_restart_does_not_count() -> None:
    history = workers().training(23).at(10.0, "preempted", "worker:1", step=24)
    assert history.stops == [], "they have a checkpoint to write, and a second SIGTERM would end them at once"
    assert history.told("task_failed")[0].data["kind"] == "preempted"
    history.at(10.1, "task_exited", "worker:1", exit_code=42)
    history.at(10.2, "preempted", "worker:0", step=24).at(10.3, "task_exited", "worker:0", exit_code=42)
    history.cleared(10.4).chosen(10.5, 24)
    assert history.told("consequence") == []
    assert history.took(StartTasks) == [10.5], "and nothing is waited for"
    assert history.state.restarts == ()
    assert history.told("restarting")[0].data["counted"] is False


def test_who_does_not_leave_in_time_is_ended() -> None:
    history = workers().training(23).at(10.0, "preempted", "worker:1", step=24).at(34.9, "tick")
    assert history.stops == []
    assert history.at(35.1, "tick").stops == [(35.1, Stop(grace_s=0.0, again=True))]


def test_a_program_that_ends_with_42_is_preempted_and_its_peers_are_asked_to_leave() -> None:
    history = program("worker:0", "worker:1").at(1.0, "host_prepared", host="local")
    history.at(50.0, "task_exited", "worker:1", exit_code=42)
    assert history.stops == [(50.0, Stop(("worker:0",), grace_s=25.0, again=True))]
    history.at(51.0, "task_exited", "worker:0", exit_code=42).cleared(51.1).chosen(51.2, None)
    assert history.took(StartTasks) == [1.0, 51.2]
    assert history.state.restarts == ()


def test_a_task_ended_by_a_sigterm_that_is_not_ours_is_preempted() -> None:
    history = workers().training(23).killed(10.0, "worker:1", "SIGTERM").down(10.1).chosen(10.2, 20)
    assert history.state.past[0].kind == "preempted"
    assert history.took(StartTasks) == [10.2]


def test_a_host_that_is_asked_to_leave_has_its_peers_write_a_checkpoint() -> None:
    history = on_hosts("a", "b").training(23)
    history.at(10.0, "host_ending", host="b", message="b: SIGTERM", preempted=True)
    assert history.stops == [(10.0, Stop(("worker:0",), grace_s=25.0, again=True))]
    for name in ("worker:1", "worker:0"):
        history.at(11.0, "preempted", name, step=25).at(11.1, "task_exited", name, exit_code=42)
    history.cleared(11.2)
    assert (11.2, OpenHosts(("b",))) in history.actions
    assert history.state.restarts == ()


# ---- a signal from the user


def test_ctrl_c_while_waiting_ends_the_run() -> None:
    history = workers().training(23).killed(10.0, "worker:1").down(10.1)
    history.at(10.2, "signal", number=signal.SIGINT)
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("stopped", 130)


def test_ctrl_c_while_a_failed_attempt_ends_means_no_other() -> None:
    history = workers().training(23).killed(10.0, "worker:1").at(10.1, "signal", number=signal.SIGINT).down(10.2)
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("stopped", 130)


def test_tasks_that_leave_with_42_after_ctrl_c_are_expected() -> None:
    history = workers().training(23).at(10.0, "signal", number=signal.SIGINT)
    assert history.stops == [(10.0, Stop(grace_s=8))]
    for name in ("worker:0", "worker:1"):
        history.at(11.0, "preempted", name, step=25).at(11.1, "task_exited", name, exit_code=42)
    history.cleared(11.2)
    assert history.over
    assert (history.state.outcome, history.state.failures, history.told("task_failed")) == ("stopped", (), [])


def test_ctrl_c_while_preempted_tasks_leave_does_not_ask_them_twice() -> None:
    history = workers().training(23).at(10.0, "preempted", "worker:1", step=24)
    history.at(10.1, "signal", number=signal.SIGINT)
    assert history.stops == []
    assert history.at(18.2, "tick").stops == [(18.2, Stop(grace_s=0.0))]
    assert history.at(18.3, "signal", number=signal.SIGINT).stops[1:] == [(18.3, Stop(grace_s=0.0))]


def test_ctrl_c_lets_the_chief_of_parameter_servers_write_before_they_end() -> None:
    history = parameter_server().training(23).at(10.0, "signal", number=signal.SIGINT)
    assert history.stops == [(10.0, Stop(("chief:0",), grace_s=8))]
    history.at(11.0, "preempted", "chief:0", step=24).at(11.1, "task_exited", "chief:0", exit_code=42)
    assert history.stops[1:] == [(11.1, Stop(("worker:0", "worker:1", "ps:0"), grace_s=0.0))]
    history.down(11.2)
    assert history.over
    assert history.state.exit_code == 130


def test_a_far_host_sends_what_it_has_kept_back_when_there_is_no_other_attempt() -> None:
    history = on_hosts("a", "b").training(23).killed(10.0, "worker:1")
    for name, host in (("worker:0", "a"), ("worker:1", "b")):
        history.at(10.1, "task_exited", name).at(10.2, "task_cleared", name, host)
    assert history.state.phase is Phase.WAITING
    history.at(10.3, "signal", number=signal.SIGINT)
    assert history.stops[-1] == (10.3, Stop(grace_s=8))
    history.at(10.4, "task_cleared", "worker:0", "a")
    assert not history.over
    assert history.at(10.5, "task_cleared", "worker:1", "b").over


# ---- hosts


def lost(**policy: Any) -> History:
    """A run on two hosts, of which b is lost at 40."""
    history = on_hosts("a", "b", **policy).training(23, time=9.0)
    return history.at(40.0, "host_lost", host="b", message="b: silent")


def test_a_lost_host_is_opened_again_and_everything_waits_for_it() -> None:
    history = lost()
    assert history.took(AskForStacks) == [40.0], "of those that are left"
    assert history.stops == []
    history.at(40.3, "stacks", "worker:0")
    assert history.stops == [(40.3, Stop(grace_s=0.0, again=True))]
    history.down(40.4).chosen(40.5, 20)
    assert history.told("restarting")[0].data["missing"] == ["b"]
    assert (40.4, OpenHosts(("b",))) in history.actions
    assert history.took(SendCheckpoint) == []
    history.at(45.0, "host_opened", host="b").at(46.0, "host_prepared", host="b")
    assert history.took(ConnectHosts) == [46.0]
    history.at(47.0, "hosts_connected")
    assert history.took(SendCheckpoint) == [47.0]
    assert history.at(48.0, "checkpoint_sent").took(StartTasks) == [48.0]


def test_stacks_that_do_not_come_are_not_waited_for_long() -> None:
    history = lost().at(42.4, "tick")
    assert history.stops == []
    assert history.at(42.5, "tick").stops == [(42.5, Stop(grace_s=0.0, again=True))]


def test_a_host_that_does_not_come_back_is_tried_at_growing_intervals_and_then_the_failure() -> None:
    history = lost().down(40.4).chosen(40.5, 20)
    opened = []
    time = 41.0
    while history.state.phase is Phase.WAITING and time < 2000:
        before = len(history.took(OpenHosts))
        history.at(time, "tick")
        if len(history.took(OpenHosts)) > before:
            opened.append(time)
            history.at(time, "host_lost", host="b", message="b: refused")
        elif time == 41.0:
            history.at(time, "host_lost", host="b", message="b: refused")
        time += 0.5
    assert opened[:6] == [42.0, 44.0, 48.0, 56.0, 72.0, 102.0]
    assert 900.0 <= time - 41.0 <= 905.0
    assert history.at(time, "task_cleared", "worker:0", "a").over, "which has sent what it had kept back"
    assert (history.state.outcome, history.state.exit_code) == ("failed", 3)
    assert history.state.first_failure is not None
    assert history.state.first_failure.message.startswith("b: refused")


def test_a_host_lost_while_waiting_is_opened_again_too() -> None:
    history = on_hosts("a", "b").training(23).killed(10.0, "worker:1").down(10.1).chosen(10.2, 20)
    history.at(10.5, "host_lost", host="a", message="a: gone").at(11.6, "tick")
    assert history.took(StartTasks) == []
    assert (11.6, OpenHosts(("a",))) in history.actions
    history.at(12.0, "host_prepared", host="a").at(12.5, "hosts_connected").at(12.6, "checkpoint_sent")
    assert history.took(StartTasks) == [12.6]


def test_the_only_host_is_opened_again_too() -> None:
    history = workers().training(23).at(10.0, "host_lost", host="local", message="the agent ended")
    assert (10.0, OpenHosts(("local",))) in history.actions
    history.chosen(10.1, 20).at(10.5, "host_prepared", host="local").at(10.6, "checkpoint_sent").at(11.0, "tick")
    assert history.took(StartTasks) == [11.0]


def test_a_task_that_does_not_end_costs_its_host_the_connection() -> None:
    history = on_hosts("a", "b").training(23).killed(10.0, "worker:1").at(10.1, "task_cleared", "worker:1", "b")
    history.at(14.9, "tick")
    assert history.took(DropHosts) == []
    history.at(15.1, "tick")
    assert (15.1, DropHosts(("a",))) in history.actions
    assert (15.1, OpenHosts(("a",))) in history.actions


# ---- elastic


def shrunk(history: History, time: float, *tasks: tuple[str, str], gone: tuple[str, ...]) -> History:
    states = tuple(TaskState(name, host) for name, host in tasks)
    changed: dict[str, Any] = {"tasks": states, "chief": states[0].name, "preparing": frozenset()}
    return history.at(time, "cluster_changed", **changed, gone=frozenset(gone))


def elastic() -> History:
    """b does not come back, and is done without."""
    history = lost(elastic=True, contact_timeout_s=30.0).down(40.4).chosen(40.5, 20)
    history.at(41.0, "host_lost", host="b", message="b: refused").at(70.0, "tick")
    assert history.took(Reshape) == []
    history.at(70.5, "tick")
    assert (70.5, Reshape(frozenset({"b"}))) in history.actions
    return shrunk(history, 70.5, ("worker:0", "a"), gone=("b",))


def test_a_host_that_is_gone_for_good_is_done_without() -> None:
    history = elastic()
    assert (70.5, DropHosts(("b",))) in history.actions
    assert history.took(SendCheckpoint) == [40.4, 70.5][1:]
    history.at(70.6, "checkpoint_sent")
    assert history.took(StartTasks) == [70.6]
    assert list(history.state.tasks) == ["worker:0"]
    assert history.told("cluster_changed")[0].data["gone"] == ["b"]


def test_a_host_that_returns_is_taken_back_at_the_next_attempt() -> None:
    history = elastic().at(70.6, "checkpoint_sent").ready_again(75.0)
    history.actions.clear()
    history.killed(80.0, "worker:0").down(80.1).chosen(80.2, 30)
    assert (80.1, OpenHosts(("b",))) in history.actions
    history.at(81.5, "tick")
    assert history.took(StartTasks) == []
    history.at(82.0, "host_opened", host="b").at(83.0, "host_prepared", host="b")
    assert (83.0, Reshape(frozenset())) in history.actions
    shrunk(history, 83.0, ("worker:0", "a"), ("worker:1", "b"), gone=())
    assert history.took(ConnectHosts) == [83.0]
    history.at(83.5, "hosts_connected").at(83.6, "checkpoint_sent")
    assert history.took(StartTasks) == [83.6]
    assert len(history.state.tasks) == 2


def test_a_host_that_does_not_return_is_not_waited_for_long() -> None:
    history = elastic().at(70.6, "checkpoint_sent").ready_again(75.0)
    history.actions.clear()
    history.killed(80.0, "worker:0").down(80.1).chosen(80.2, 30).at(85.0, "tick")
    assert history.took(SendCheckpoint) == []
    history.at(85.2, "tick")
    assert (85.2, DropHosts(("b",))) in history.actions
    assert history.at(85.3, "checkpoint_sent").took(StartTasks) == [85.3]


def test_too_few_that_are_left_wait_for_the_others() -> None:
    history = lost(elastic=True, contact_timeout_s=30.0).down(40.4).chosen(40.5, 20)
    history.at(41.0, "host_lost", host="b", message="b: refused").at(70.5, "tick")
    history.at(70.5, "cluster_changed", tasks=None).at(71.0, "tick").at(100.0, "tick")
    assert len(history.took(Reshape)) == 1
    history.at(120.0, "host_prepared", host="b").at(121.0, "hosts_connected").at(121.1, "checkpoint_sent")
    assert history.took(StartTasks) == [121.1]


# ---- a loss that is not a number


def nan(history: History, time: float, step: int) -> History:
    history.at(time, "failure", "worker:0", why="nan", step=step, message=f"the loss is nan at step {step}")
    return history.at(time + 0.1, "task_exited", "worker:0", exit_code=1).down(time + 0.2)


def test_nan_ends_the_run() -> None:
    history = nan(workers().training(23), 10.0, 24)
    assert history.over
    (told,) = history.told("task_failed")
    assert (told.data["kind"], told.data["message"]) == ("nan", "the loss is nan at step 24")
    assert history.state.exit_code == 1


def test_nan_is_rolled_back_behind_and_left_out() -> None:
    history = nan(workers(watchdog=WatchdogSpec(nan="rollback")).training(23), 10.0, 24)
    (choice,) = [action for _, action in history.actions if isinstance(action, ChooseCheckpoint)]
    assert choice.before == 24
    history.chosen(10.3, 20).at(11.5, "tick")
    assert history.state.restart is not None
    assert history.state.restart.resume == Resume("step-00000020", skip_to=24)
    assert len(history.state.restarts) == 1


def test_a_crash_before_there_is_a_newer_checkpoint_goes_back_as_far_again() -> None:
    history = nan(workers(watchdog=WatchdogSpec(nan="rollback")).training(23), 10.0, 24).chosen(10.3, 20)
    history.at(11.5, "tick").ready_again(12.0).killed(20.0, "worker:1").down(20.1)
    choices = [action.before for _, action in history.actions if isinstance(action, ChooseCheckpoint)]
    assert choices == [24, 24]
    history.chosen(20.2, 20).at(30.0, "tick").ready_again(31.0).at(35.0, "checkpoint", "worker:0", step=30)
    history.killed(40.0, "worker:1").down(40.1)
    assert [action.before for _, action in history.actions if isinstance(action, ChooseCheckpoint)][2:] == [None]


def test_nan_at_the_same_step_again_ends_the_run() -> None:
    history = nan(workers(watchdog=WatchdogSpec(nan="rollback")).training(23), 10.0, 24).chosen(10.3, None)
    assert nan(history.at(11.5, "tick").ready_again(12.0), 20.0, 24).over


def test_a_checkpoint_that_a_worker_cannot_read_is_passed_over() -> None:
    history = crashed_once(workers().training(23), 10.0, 20)
    history.at(72.0, "failure", "worker:0", why="checkpoint", message="it is damaged", path="step-00000020")
    history.at(72.1, "task_exited", "worker:0", exit_code=1).down(72.2)
    assert [action.before for _, action in history.actions if isinstance(action, ChooseCheckpoint)] == [None, 20]


# ---- parameter servers


def test_a_worker_of_parameter_servers_is_respawned_alone() -> None:
    history = parameter_server().training(23).killed(10.0, "worker:1")
    (told,) = history.told("respawning")
    assert (told.task, told.data["cause"], told.data["signal"]) == ("worker:1", "crash", "SIGKILL")
    history.at(10.1, "task_cleared", "worker:1").at(10.9, "tick")
    assert history.took(StartTasks) == []
    history.at(11.0, "tick")
    assert history.actions[-1] == (11.0, StartTasks(("worker:1",)))
    assert history.stops == []
    assert history.told("task_failed") == []
    assert (history.state.attempt, history.state.phase) == (1, Phase.RUNNING)
    history.at(12.0, "task_started", "worker:1", pid=9).at(14.0, "ready", "worker:1").at(2000.0, "tick")
    assert history.stops == []


def test_respawns_count_like_restarts() -> None:
    history = parameter_server(restart=RestartSpec(max=1)).training(23).killed(10.0, "worker:1")
    history.at(10.1, "task_cleared", "worker:1").at(11.0, "tick").at(12.0, "ready", "worker:1")
    history.killed(20.0, "worker:0")
    assert history.told("task_failed")[0].task == "worker:0"
    assert history.down(20.1).over


def test_a_respawned_worker_that_is_late_is_late_since_its_own_start() -> None:
    history = parameter_server(watchdog=WatchdogSpec(step_timeout_s=0)).training(23, time=5.0)
    history.training(90, time=4999.0).killed(5000.0, "worker:1")
    history.at(5000.1, "task_cleared", "worker:1").at(5001.0, "tick").at(5032.0, "tick")
    assert history.told("task_failed") == []
    assert history.told("note")[0].data["message"].endswith("(31 s after the start)")


@pytest.mark.parametrize("victim", ["chief:0", "ps:0"])
def test_without_its_chief_or_a_server_the_whole_attempt_restarts(victim: str) -> None:
    history = parameter_server().training(23).killed(10.0, victim)
    assert history.stops == [(10.0, Stop(grace_s=0.0, again=True))]
    history.down(10.1).chosen(10.2, 20).at(11.0, "tick")
    assert history.took(StartTasks) == [11.0]
    assert history.state.attempt == 2


def test_a_server_that_dies_while_a_worker_is_respawned_restarts_everything() -> None:
    history = parameter_server().training(23).killed(10.0, "worker:1").killed(10.1, "ps:0")
    history.down(10.2).chosen(10.3, 20).at(60.0, "tick")
    assert history.took(StartTasks) == [60.0]
    assert history.actions[-1][1] == StartTasks()


def test_a_preempted_chief_lets_its_servers_be_stopped_when_it_has_ended() -> None:
    history = parameter_server().training(23).at(10.0, "preempted", "chief:0", step=24)
    assert history.stops == []
    history.at(10.5, "task_exited", "chief:0", exit_code=42)
    assert history.stops == [(10.5, Stop(("worker:0", "worker:1", "ps:0"), grace_s=0.0, again=True))]
    history.down(10.6).chosen(10.7, 24)
    assert history.took(StartTasks) == [10.7]


def test_a_respawn_after_a_preemption_is_at_once_and_not_counted() -> None:
    history = parameter_server(watchdog=WatchdogSpec(step_timeout_s=0)).training(23)
    history.killed(40.0, "worker:1", "SIGTERM")
    history.at(40.1, "task_cleared", "worker:1").at(40.2, "tick")
    assert history.took(StartTasks) == [40.2]
    assert history.state.restarts == ()
