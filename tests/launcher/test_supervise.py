"""What `decide` makes of scripted histories of a job on one host."""

from __future__ import annotations

import signal

import pytest
from histories import History

from distrain.launcher.supervise.actions import (
    Abandon,
    ConnectHosts,
    StartTasks,
    Stop,
    TryTasks,
)
from distrain.launcher.supervise.state import TaskState


def workers(count: int = 2) -> History:
    return History(*(TaskState(f"worker:{index}", "local") for index in range(count)), chief="worker:0")


def parameter_server() -> History:
    return History(
        TaskState("chief:0", "local"),
        TaskState("worker:0", "local", serves=True),
        TaskState("ps:0", "local", serves=True),
        chief="chief:0",
    )


def test_tasks_start_when_every_host_is_prepared() -> None:
    history = History(TaskState("worker:0", "a"), TaskState("worker:1", "b"), chief="worker:0")
    history.at(1.0, "host_prepared", host="a")
    assert history.actions == []
    history.at(2.0, "host_prepared", host="b")
    assert history.actions == [(2.0, ConnectHosts())]
    history.at(3.0, "hosts_connected")
    assert history.actions[1:] == [(3.0, StartTasks())]


def test_one_host_needs_to_find_no_other() -> None:
    assert workers().at(1.0, "host_prepared", host="local").actions == [(1.0, StartTasks())]


def test_success_ends_when_nothing_is_left() -> None:
    history = workers(3).running()
    history.at(8.9, "done", "worker:1").at(9.0, "done", "worker:0").at(9.1, "task_exited", "worker:0", exit_code=0)
    assert history.stops == [(9.1, Stop(("worker:1",), grace_s=3))]
    history.at(9.2, "task_exited", "worker:1", exit_code=None, signal="SIGTERM")
    history.at(9.3, "done", "worker:2")
    assert history.stops[1:] == [(9.3, Stop(("worker:2",), grace_s=3))]
    history.at(9.4, "task_exited", "worker:2", exit_code=None, signal="SIGTERM")
    assert not history.over
    history.cleared(9.5)
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("succeeded", 0)


def test_peers_may_also_end_by_themselves() -> None:
    history = workers().running()
    for task in ("worker:1", "worker:0"):
        history.at(9.0, "done", task).at(9.1, "task_exited", task, exit_code=0)
    history.cleared(9.2)
    assert history.over
    assert (history.state.outcome, history.stops) == ("succeeded", [])


def test_the_chief_of_a_parameter_server_job_takes_the_others_with_it() -> None:
    history = parameter_server().running()
    history.at(9.0, "done", "chief:0").at(9.1, "task_exited", "chief:0", exit_code=0)
    assert history.stops == [(9.1, Stop(("worker:0", "ps:0"), grace_s=3))]
    for task in ("worker:0", "ps:0"):
        history.at(9.2, "task_exited", task, exit_code=None, signal="SIGTERM")
    history.cleared(9.3)
    assert history.over
    assert history.state.outcome == "succeeded"


def test_a_killed_task_is_told_at_once_and_its_peers_are_stopped() -> None:
    history = workers().running()
    history.at(5.0, "task_exited", "worker:1", exit_code=None, signal="SIGKILL", log_tail=["last words"])
    assert history.stops == [(5.0, Stop(grace_s=3))]
    (told,) = history.told("task_failed")
    assert told.data["task"] == "worker:1"
    assert told.data["signal"] == "SIGKILL"
    assert told.data["log_tail"] == ["last words"]
    history.at(5.1, "failure", "worker:0", message="UnavailableError: Connection reset by peer")
    assert [tell.task for tell in history.told("consequence")] == ["worker:0"]
    history.at(5.2, "task_exited", "worker:0", exit_code=1).cleared(5.3)
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("failed", 1)
    assert history.state.first_failure is not None
    assert history.state.first_failure.task == "worker:1"


def test_a_consequence_that_is_heard_first_waits_for_its_cause() -> None:
    history = workers().running()
    history.at(5.0, "failure", "worker:0", message="UnavailableError: worker:1 is gone")
    assert history.actions == []
    history.at(5.2, "task_exited", "worker:1", exit_code=None, signal="SIGSEGV")
    assert history.told("task_failed")[0].task == "worker:1"
    assert [tell.task for tell in history.told("consequence")] == ["worker:0"]


def test_a_consequence_without_a_cause_is_told_after_the_settling_time() -> None:
    history = workers().running()
    history.at(5.0, "failure", "worker:0", message="UnavailableError: worker:1 is gone")
    history.at(5.3, "tick")
    assert history.actions == []
    history.at(5.5, "tick")
    assert history.told("task_failed")[0].task == "worker:0"
    assert history.stops == [(5.5, Stop(grace_s=3))]


@pytest.mark.parametrize(
    "message",
    [
        "UnknownError: PeerGone: worker:1 does not answer",
        "UnavailableError: Collective ops is aborted by: Error reported from /job:worker/task:1: "
        "The following tasks are unhealthy (stopped sending heartbeats):",
    ],
)
def test_a_task_that_does_not_answer_is_named_by_its_peer(message: str) -> None:
    history = workers().running()
    history.at(5.0, "failure", "worker:0", message=message).at(5.5, "tick")
    (told,) = history.told("task_failed")
    assert (told.task, told.data["kind"]) == ("worker:1", "unresponsive")
    assert told.data["message"] == "stopped answering, says worker:0"
    history.at(5.6, "task_exited", "worker:0", exit_code=1).at(8.5, "task_exited", "worker:1", signal="SIGKILL")
    assert history.cleared(8.6).over
    assert history.state.first_failure is not None
    assert history.state.first_failure.task == "worker:1"


def test_an_exception_is_told_with_its_exit_code_and_place() -> None:
    history = workers().running()
    history.at(5.0, "failure", "worker:0", message="ValueError: no", where="model.py:7")
    assert history.actions == []
    history.at(5.1, "task_exited", "worker:0", exit_code=1, log_tail=["Traceback"])
    (told,) = history.told("task_failed")
    assert (told.data["kind"], told.data["exit_code"], told.data["where"]) == ("exception", 1, "model.py:7")
    assert told.data["log_tail"] == ["Traceback"]


def test_an_exception_in_a_task_that_then_hangs_is_told_all_the_same() -> None:
    history = workers().running()
    history.at(5.0, "failure", "worker:0", message="ValueError: no").at(5.5, "tick")
    assert history.told("task_failed")[0].data["exit_code"] is None
    history.at(8.6, "task_exited", "worker:0", exit_code=None, signal="SIGKILL")
    assert history.state.first_failure is not None
    assert history.state.first_failure.signal == "SIGKILL"
    assert history.state.first_failure.message == "ValueError: no"


def test_a_job_that_is_at_fault_exits_with_2() -> None:
    history = workers(1).running()
    history.at(5.0, "failure", "worker:0", message="no such file", job_error=True)
    history.at(5.1, "task_exited", "worker:0", exit_code=2).cleared(5.2)
    assert history.over
    assert history.state.exit_code == 2


def test_ending_early_with_code_0_is_a_failure() -> None:
    history = workers().running()
    history.at(5.0, "task_exited", "worker:1", exit_code=0)
    (told,) = history.told("task_failed")
    assert told.data["kind"] == "early_exit"
    history.cleared(6.0)
    assert history.state.exit_code == 1


def test_a_command_that_cannot_start_says_why() -> None:
    history = workers(1)
    history.at(1.0, "host_prepared", host="local")
    history.at(1.1, "task_exited", "worker:0", exit_code=127, message="no-such-program: not found")
    (told,) = history.told("task_failed")
    assert (told.data["kind"], told.data["message"]) == ("start", "no-such-program: not found")


def test_a_failure_after_the_chief_is_done_still_fails_the_run() -> None:
    history = workers().running()
    history.at(9.0, "done", "worker:0").at(9.1, "task_exited", "worker:0", exit_code=0)
    history.at(9.2, "failure", "worker:1", message="OSError: disk").at(9.3, "task_exited", "worker:1", exit_code=1)
    history.cleared(9.4)
    assert history.over
    assert history.state.outcome == "failed"


def test_a_consequence_of_the_chief_having_ended_well_is_no_failure() -> None:
    history = workers().running()
    history.at(9.0, "done", "worker:0").at(9.1, "task_exited", "worker:0", exit_code=0)
    history.at(9.2, "failure", "worker:1", message="UnavailableError").at(9.3, "task_exited", "worker:1", exit_code=1)
    history.cleared(9.4)
    assert history.over
    assert history.state.outcome == "succeeded"


def test_who_does_not_end_after_the_chief_is_stopped() -> None:
    history = workers().running()
    history.at(9.0, "done", "worker:0").at(9.1, "task_exited", "worker:0", exit_code=0).at(
        9.2, "task_cleared", "worker:0"
    )
    history.at(19.0, "tick")
    assert history.stops == []
    history.at(19.2, "tick")
    assert history.stops == [(19.2, Stop(grace_s=3))]
    history.at(20.0, "task_exited", "worker:1", exit_code=None, signal="SIGTERM").cleared(20.1)
    assert history.over
    assert history.state.outcome == "succeeded"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_stops_with_grace_and_the_next_at_once(number: int, code: int) -> None:
    history = workers().running()
    history.at(5.0, "signal", number=number).at(5.5, "signal", number=number)
    assert history.stops == [(5.0, Stop(grace_s=8)), (5.5, Stop(grace_s=0))]
    for task in ("worker:0", "worker:1"):
        history.at(5.6, "task_exited", task, exit_code=None, signal="SIGKILL")
    assert not history.over
    history.cleared(5.7)
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("stopped", code)
    assert history.state.first_failure is None


def test_a_signal_before_any_task_started_ends_the_run() -> None:
    history = workers().at(0.5, "signal", number=signal.SIGINT)
    assert history.over
    assert history.state.exit_code == 130


def test_ctrl_c_while_a_failed_run_ends_keeps_the_failure() -> None:
    history = workers().running()
    history.at(5.0, "task_exited", "worker:1", exit_code=3).at(5.5, "signal", number=signal.SIGINT)
    assert history.stops == [(5.0, Stop(grace_s=3)), (5.5, Stop(grace_s=0))]
    history.cleared(6.0)
    assert (history.state.outcome, history.state.exit_code) == ("failed", 1)


def test_a_lost_host_fails_the_run_with_code_3() -> None:
    history = History(TaskState("worker:0", "a"), TaskState("worker:1", "b"), chief="worker:0").running()
    history.at(5.0, "host_lost", host="b", message="the agent on b ended")
    (told,) = history.told("task_failed")
    assert (told.host, told.data["kind"]) == ("b", "host")
    history.at(5.1, "task_exited", "worker:0", exit_code=None, signal="SIGTERM").at(5.2, "task_cleared", "worker:0")
    assert history.over
    assert history.state.exit_code == 3


def test_the_only_host_lost_ends_the_run() -> None:
    history = workers().running().at(5.0, "host_lost", host="local", message="the agent ended")
    assert history.told("task_failed")
    assert history.over
    assert history.state.exit_code == 3


def test_an_agent_that_ends_is_the_cause_of_its_tasks_ends() -> None:
    history = workers().running().at(5.0, "host_ending", host="local", message="the guard was killed")
    assert history.told("task_failed")[0].data["message"] == "the guard was killed"
    history.at(5.1, "task_exited", "worker:0", exit_code=None, signal="SIGTERM")
    history.at(5.2, "task_exited", "worker:1", exit_code=None, signal="SIGTERM").cleared(5.3)
    assert history.over
    assert history.state.exit_code == 3


def test_overdue_tasks_are_named_with_what_they_do() -> None:
    history = workers()
    history.at(1.0, "host_prepared", host="local").at(2.0, "phase", "worker:1", phase="importing TensorFlow")
    history.at(3.0, "ready", "worker:0").at(29.0, "tick")
    assert history.told("note") == []
    history.at(30.0, "tick").at(31.0, "tick")
    (note,) = history.told("note")
    assert note.data["message"] == "waiting for worker:1 on local: importing TensorFlow (30 s after the start)"
    assert [action for _, action in history.actions if isinstance(action, TryTasks)] == [TryTasks(("worker:1",))]


def test_an_overdue_task_that_cannot_be_reached_is_named_so_while_it_connects() -> None:
    history = workers()
    history.at(1.0, "host_prepared", host="local").at(3.0, "ready", "worker:0").at(30.0, "tick")
    history.at(30.1, "tried", "worker:1", reach="port 41234 refused from host1")
    history.at(40.0, "phase", "worker:1", phase="connecting").at(60.0, "tick")
    assert "worker:1 on local: connecting, port 41234 refused from host1" in history.told("note")[-1].data["message"]


def test_a_start_that_never_comes_ends_with_what_is_missing_as_its_cause() -> None:
    history = workers().at(1.0, "host_prepared", host="local").at(2.0, "ready", "worker:0").at(900.0, "tick")
    history.at(900.5, "tick")
    (told,) = history.told("task_failed")
    assert told.data["kind"] == "start_timeout"
    assert "worker:1 on local: starting" in told.data["message"]


def test_an_agent_that_does_not_kill_is_abandoned() -> None:
    history = workers().running().at(5.0, "signal", number=signal.SIGTERM).at(12.0, "tick")
    assert not history.over
    history.at(18.1, "tick")
    assert any(isinstance(action, Abandon) for _, action in history.actions)
    assert history.over


def test_a_task_whose_host_is_not_heard_of_either_is_not_to_blame() -> None:
    tasks = TaskState("worker:0", "one"), TaskState("worker:1", "two")
    history = History(*tasks, chief="worker:0").running()
    for second in range(10, 20):
        history.at(second, "pulse", "worker:0", host="one", step=1, doing="step", for_s=1.0)
        if second < 13:
            history.at(second, "pulse", "worker:1", host="two", step=1, doing="step", for_s=1.0)
    history.at(20.0, "failure", "worker:0", host="one", message="UnknownError: PeerGone: worker:1 does not answer")
    history.at(20.5, "tick")
    (told,) = history.told("task_failed")
    assert (told.task, told.host, told.data["kind"]) == (None, "two", "host")
    assert told.data["message"].startswith("two: nothing has been heard from it for 8 s, and worker:0 ")


def test_who_was_asked_to_leave_is_told_from_who_leaves_with_it() -> None:
    history = workers().running()
    history.at(5.0, "preempted", "worker:0", step=7, asked=False).at(5.1, "preempted", "worker:1", step=7, asked=True)
    history.at(5.2, "task_exited", "worker:1", exit_code=42).at(5.8, "tick")
    (told,) = history.told("task_failed")
    assert (told.task, told.data["kind"]) == ("worker:1", "preempted")
