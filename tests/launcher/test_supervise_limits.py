"""What `decide` does not let go on for ever, nor forget: restarts that come to nothing, waits, files kept back."""

from __future__ import annotations

import signal

import pytest
from histories import RESTART, History, on_hosts, parameter_server, program, workers

from distrain.job.spec import RestartSpec, WatchdogSpec
from distrain.launcher.supervise.actions import Abandon, OpenHosts, StartTasks, Stop
from distrain.launcher.supervise.decide import begin
from distrain.launcher.supervise.state import Phase, TaskState
from distrain.wire import PRELOAD_GONE

UNWATCHED = WatchdogSpec(step_timeout_s=0)
"""For tasks whose pulses a history leaves out."""

# ---- restarts that come to nothing


def attempts_until_the_end(history: History, leave_after_s: float, most: int = 20) -> int:
    """A program of one task that leaves so long after each start."""
    time = 1.0
    for attempt in range(1, most + 1):
        history.at(time, "task_started", "worker:0", pid=1)
        time += leave_after_s
        history.at(time, "task_exited", "worker:0", exit_code=42).at(time, "task_cleared", "worker:0")
        if history.over:
            return attempt
        history.chosen(time, None)
        while history.state.phase is Phase.WAITING:
            time += 0.5
            history.at(time, "tick")
    return most


def test_a_program_that_leaves_at_once_is_not_started_for_ever() -> None:
    history = program("worker:0").at(1.0, "host_prepared", host="local")
    assert attempts_until_the_end(history, 0.1) == 4
    assert history.took(StartTasks) == [1.0, 2.1, 4.2, 8.3], "and with growing pauses"
    assert "no restart is left" in history.told("stopping")[0].data["reason"]


def test_a_program_that_ran_for_a_while_may_leave_as_often_as_it_likes() -> None:
    history = program("worker:0").at(1.0, "host_prepared", host="local")
    assert attempts_until_the_end(history, 31.0) == 20
    assert history.state.restarts == ()


def left(history: History, time: float, step: int) -> History:
    for name in history.state.tasks:
        history.at(time, "preempted", name, step=step).at(time, "task_exited", name, exit_code=42)
    return history.cleared(time + 0.1).chosen(time + 0.2, step)


def test_an_attempt_that_made_no_step_before_it_was_to_leave_counts() -> None:
    history = left(workers().training(23), 10.0, 24)
    assert history.took(StartTasks) == [10.2]
    assert history.state.restarts == ()
    left(history.ready_again(15.0), 16.0, 24)
    assert history.told("restarting")[-1].data["counted"] is True
    assert history.took(StartTasks) == [10.2]
    assert history.at(17.0, "tick").took(StartTasks) == [10.2, 17.0], "after a pause"


def test_a_step_that_was_told_of_only_in_leaving_is_a_step() -> None:
    history = left(workers().training(23), 10.0, 24)
    left(history.ready_again(15.0), 16.0, 25)
    assert history.state.restarts == ()


def test_a_worker_of_parameter_servers_that_leaves_at_once_is_counted() -> None:
    history = parameter_server(watchdog=UNWATCHED).training(23)
    time = 40.0
    while history.state.phase is Phase.RUNNING and time < 1000.0:
        history.killed(time, "worker:1", "SIGTERM").at(time + 0.1, "task_cleared", "worker:1")
        while history.state.tasks["worker:1"].doing != "starting" and history.state.phase is Phase.RUNNING:
            time += 0.5
            history.at(time, "tick")
        time += 1.0
    assert [told.data["counted"] for told in history.told("respawning")] == [False, True, True, True]
    assert "no restart is left" in history.told("stopping")[0].data["reason"]


@pytest.mark.parametrize("step", [5, 95])
def test_steps_within_one_epoch_do_not_set_the_count_of_respawns_back(step: int) -> None:
    restart = RestartSpec(max=3, window_s=10_000.0)
    history = parameter_server(restart=restart, watchdog=UNWATCHED).training(step)
    time, respawns = 10.0, 0
    while history.state.phase is Phase.RUNNING and respawns < 100:
        history.killed(time, "worker:1").at(time + 0.1, "task_cleared", "worker:1").at(time + 20.0, "tick")
        if history.state.phase is Phase.RUNNING:
            respawns += 1
            history.at(time + 21.0, "ready", "worker:1")
            history.at(time + 22.0, "progress", "chief:0", step=step + respawns)
        time += 30.0
    assert respawns == 3
    assert history.told("task_failed")[0].task == "worker:1"


def test_an_epoch_after_a_respawn_sets_the_count_back() -> None:
    history = parameter_server().training(95).killed(10.0, "worker:1").at(10.1, "task_cleared", "worker:1")
    history.at(11.0, "tick").at(12.0, "ready", "worker:1").at(13.0, "progress", "chief:0", step=99)
    assert len(history.state.restarts) == 1
    assert history.at(14.0, "progress", "chief:0", step=100).state.restarts == ()


def test_of_many_failures_the_last_are_remembered_and_of_those_the_last_words() -> None:
    history = workers(restart=RestartSpec(max=5000, window_s=1e9)).training(23)
    time = 10.0
    for _ in range(1100):
        history.at(time, "task_exited", "worker:1", exit_code=None, signal="SIGKILL", log_tail=("last words",))
        history.down(time + 0.1).chosen(time + 0.2, 20).at(time + 60.0, "tick").ready_again(time + 61.0)
        time += 100.0
    past = history.state.past
    assert (history.state.restarted, len(past)) == (1100, 100)
    assert [bool(failure.log_tail) for failure in past] == [False] * 90 + [True] * 10


def test_a_start_that_failed_with_the_process_it_was_to_come_from_is_tried_again() -> None:
    history = workers().training(23).killed(10.0, "worker:1").down(10.1).chosen(10.2, 20).at(11.0, "tick")
    message = f"{PRELOAD_GONE}: its process was killed by SIGKILL"
    history.at(11.1, "task_exited", "worker:0", exit_code=125, message=message).down(11.2)
    assert history.state.phase is Phase.WAITING
    assert history.chosen(11.3, 20).told("restarting")[-1].data["cause"] == "crash"


# ---- hosts that come and go


def test_the_time_that_a_host_was_back_does_not_count_as_away() -> None:
    history = on_hosts("a", "b", "c").training(23).killed(10.0, "worker:1").down(10.1).chosen(10.2, 20)
    history.at(11.0, "host_lost", host="c", message="c: refused")
    history.at(12.0, "host_lost", host="b", message="b: refused").at(13.0, "tick").at(14.0, "host_prepared", host="b")
    history.at(800.0, "host_prepared", host="c")
    history.at(801.0, "host_lost", host="b", message="b: refused").at(803.0, "tick")
    assert history.took(OpenHosts)[-1] == 803.0
    history.at(950.0, "host_lost", host="b", message="b: refused").at(1000.0, "tick")
    assert history.state.phase is Phase.WAITING, "it has been away for 201 s"
    history.at(801.0 + 899.0, "tick")
    assert history.told("task_failed")[-1].host == "b"


# ---- what takes long between two attempts


def between(*hosts: str) -> History:
    history = on_hosts(*hosts).training(23).killed(10.0, "worker:1").down(10.1)
    history.actions.clear()
    return history


def test_a_checkpoint_that_is_not_found_is_told_of_and_then_the_failure() -> None:
    history = between("a", "b").at(40.2, "tick")
    assert [note.data["message"] for note in history.told("note")] == [
        "choosing the checkpoint (30 s after the end of the attempt before)"
    ]
    history.at(50.0, "tick").at(70.3, "tick")
    assert len(history.told("note")) == 2
    history.at(910.2, "tick")
    (failed,) = history.told("task_failed")
    assert failed.data["message"] == "choosing the checkpoint has not got on for 900 s"


def test_a_checkpoint_that_does_not_arrive_is_told_of_and_then_the_failure() -> None:
    history = between("a", "b").at(20.0, "checkpoint_chosen", name="step-00000020", step=20, damaged=())
    history.at(20.0, "checkpoint_sending", hosts=["a", "b"]).at(30.0, "checkpoint_sending", hosts=["b"])
    history.at(50.0, "tick")
    assert "sending the checkpoint to b (40 s" in history.told("note")[0].data["message"]
    history.at(929.0, "tick")
    assert history.told("task_failed") == []
    history.at(930.0, "tick")
    (failed,) = history.told("task_failed")
    assert (failed.host, failed.data["kind"]) == ("b", "host")
    assert failed.data["message"] == "b: sending the checkpoint to b has not got on for 900 s"
    history.at(931.0, "task_cleared", "worker:0", "a").at(931.0, "task_cleared", "worker:1", "b")
    assert history.over
    assert history.state.exit_code == 3


def test_a_large_checkpoint_may_take_as_long_as_it_gets_on() -> None:
    history = between("a", "b").at(20.0, "checkpoint_chosen", name="step-00000020", step=20, damaged=())
    for time in range(20, 5000, 500):
        history.at(float(time), "checkpoint_sending", hosts=["b"]).at(time + 499.0, "tick")
    assert history.at(5000.0, "checkpoint_sent").took(StartTasks) == [5000.0]


def test_hosts_that_never_find_each_other_are_told_of() -> None:
    history = on_hosts("a", "b").training(23).at(10.0, "host_lost", host="b", message="b: gone").at(13.0, "tick")
    history.down(13.1).chosen(13.2, 20).at(14.0, "host_prepared", host="b").at(50.0, "tick")
    assert "finding how the hosts reach each other" in history.told("note")[-1].data["message"]
    history.at(914.0, "tick")
    assert history.told("task_failed")[-1].data["kind"] == "start_timeout"
    assert history.state.phase is Phase.STOPPING


def test_a_pause_is_not_told_of_as_a_wait() -> None:
    history = workers(restart=RestartSpec(backoff_s=60.0)).training(23).killed(10.0, "worker:1").down(10.1)
    history.chosen(10.2, 20).at(45.0, "tick")
    assert history.told("note") == []


def test_a_resumed_run_says_too_what_its_first_attempt_waits_for() -> None:
    history = workers()
    history.state = begin(history.state.tasks.values(), "worker:0", time=0.0, policy=history.state.policy, resume=True)
    history.at(1.0, "host_prepared", host="local").at(31.0, "tick")
    assert history.told("note")[0].data["message"] == "choosing the checkpoint (31 s after the start)"
    history.at(901.0, "tick").at(905.0, "tick")
    assert history.over


# ---- files that hosts keep back for another attempt


def test_ctrl_c_while_an_attempt_is_stopped_for_another_fetches_what_was_kept_back() -> None:
    history = on_hosts("a", "b").training(23).killed(10.0, "worker:1").at(10.1, "task_cleared", "worker:1", "b")
    assert history.stops == [(10.0, Stop(grace_s=0.0, again=True))]
    history.at(10.2, "signal", number=signal.SIGINT)
    assert history.stops[1:] == [(10.2, Stop(grace_s=8, again=True))], "a has not cleared its task: it keeps on"
    history.at(10.3, "task_exited", "worker:0").at(10.4, "task_cleared", "worker:0", "a")
    assert not history.over
    assert history.stops[2:] == [(10.4, Stop(grace_s=8))]
    history.at(10.5, "task_cleared", "worker:0", "a")
    assert not history.over
    assert history.at(10.6, "task_cleared", "worker:1", "b").over
    assert (history.state.outcome, history.state.exit_code) == ("stopped", 130)


def test_ctrl_c_while_tasks_leave_fetches_too_and_asks_nobody_twice() -> None:
    history = on_hosts("a", "b").training(23)
    history.at(10.0, "host_ending", host="b", message="b: SIGTERM", preempted=True)
    assert history.stops == [(10.0, Stop(("worker:0",), grace_s=25.0, again=True))]
    history.at(10.1, "signal", number=signal.SIGINT)
    for name, host in (("worker:0", "a"), ("worker:1", "b")):
        history.at(11.0, "preempted", name, step=25).at(11.1, "task_exited", name, exit_code=42)
        history.at(11.2, "task_cleared", name, host)
    assert history.stops[1:] == [(11.2, Stop(grace_s=8))], "of nobody who could be asked twice anything is left"
    history.at(12.0, "host_lost", host="b", message="b: gone")
    assert history.at(12.1, "task_cleared", "worker:0", "a").over


def test_a_second_ctrl_c_waits_for_no_files() -> None:
    history = on_hosts("a", "b").training(23).killed(10.0, "worker:1").at(10.2, "signal", number=signal.SIGINT)
    history.at(10.3, "signal", number=signal.SIGINT)
    assert history.stops[-1] == (10.3, Stop(grace_s=0.0))
    assert history.down(10.4).over


def test_files_that_never_come_are_not_waited_for_without_end() -> None:
    history = on_hosts("a", "b").training(23).killed(10.0, "worker:1").at(10.2, "signal", number=signal.SIGINT)
    history.down(10.4).at(23.3, "tick")
    assert not history.over
    history.at(23.5, "tick")
    assert history.took(Abandon) == [23.5]
    assert history.over


def test_hosts_that_a_single_task_was_stopped_on_send_their_files_in_the_end() -> None:
    tasks = (TaskState("worker:0", "b", serves=True, starts_alone=True), TaskState("ps:0", "b", serves=True))
    watchdog = WatchdogSpec(step_timeout_s=10.0)
    history = History(TaskState("chief:0", "a"), *tasks, chief="chief:0", restart=RESTART, watchdog=watchdog)
    history.training(23)
    for second in range(5, 20):
        history.at(second, "pulse", "ps:0", step=0, doing="serving").at(second, "progress", "chief:0", step=20 + second)
        history.at(second + 0.5, "tick")
    (told,) = history.told("respawning")
    assert (told.task, told.data["cause"]) == ("worker:0", "hang")
    assert [stop for _, stop in history.stops] == [Stop(("worker:0",), grace_s=0.0, again=True)]
    history.killed(20.0, "worker:0").at(20.1, "task_cleared", "worker:0", "b").at(25.0, "tick")
    history.at(26.0, "ready", "worker:0").at(30.0, "done", "chief:0")
    history.at(30.1, "task_exited", "chief:0", exit_code=0).at(30.2, "task_cleared", "chief:0", "a")
    assert history.stops[1:] == [(30.1, Stop(("worker:0", "ps:0"), grace_s=3, again=True))]
    for name in ("worker:0", "ps:0"):
        history.killed(30.3, name).at(30.4, "task_cleared", name, "b")
    assert not history.over, "the chief's host may have kept files back"
    assert history.stops[2:] == [(30.4, Stop(grace_s=8))]
    history.at(30.5, "task_cleared", "ps:0", "b").at(31.0, "task_cleared", "chief:0", "a")
    assert history.over
    assert history.state.outcome == "succeeded"
