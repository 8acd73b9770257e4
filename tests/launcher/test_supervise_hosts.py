"""What `decide` makes of several hosts that open or fail, and of programs, which say nothing of themselves."""

from __future__ import annotations

import signal

import pytest
from histories import History

from distrain.launcher.supervise.actions import (
    Abandon,
    ConnectHosts,
    StartTasks,
    Stop,
)
from distrain.launcher.supervise.state import TaskState


def three_hosts() -> History:
    return History(*(TaskState(f"worker:{index}", host) for index, host in enumerate("abc")), chief="worker:0")


def program(*names: str, serving: tuple[str, ...] = ()) -> History:
    tasks = [TaskState(name, "local", serves=name in serving, speaks=False) for name in names]
    history = History(*tasks, chief=names[0]).at(1.0, "host_prepared", host="local")
    for name in names:
        history.at(1.5, "task_started", name, pid=1)
    history.actions.clear()
    return history


# ---- hosts


def test_every_host_that_cannot_be_opened_is_named() -> None:
    history = three_hosts().at(1.0, "host_lost", host="b", message="b: refused")
    assert history.told("task_failed") == [], "another host may fail as well"
    history.at(1.5, "host_prepared", host="a").at(2.0, "host_lost", host="c", message="c: unknown name")
    (told,) = history.told("task_failed")
    assert (told.host, told.data["message"]) == ("b", "b: refused")
    assert [tell.host for tell in history.told("host_failed")] == ["c"]
    assert history.over
    assert history.state.exit_code == 3


def test_a_host_that_fails_does_not_wait_long_for_one_that_says_nothing() -> None:
    history = three_hosts().at(1.0, "host_lost", host="b", message="b: refused").at(2.0, "tick")
    assert not history.over
    history.at(4.1, "tick")
    assert history.over
    assert history.state.first_failure is not None
    assert history.state.first_failure.host == "b"


def test_hosts_that_do_not_reach_each_other_end_the_run_before_a_task_starts() -> None:
    history = three_hosts()
    for host in "abc":
        history.at(1.0, "host_prepared", host=host)
    history.at(2.0, "host_unreachable", host="c", message="c: its address 127.0.1.1 cannot be reached")
    assert history.over
    assert history.state.exit_code == 3
    assert not any(isinstance(action, StartTasks) for _, action in history.actions)


def test_a_host_that_is_late_is_named_as_overdue() -> None:
    history = three_hosts().at(1.0, "host_prepared", host="a").at(30.0, "tick")
    (note,) = history.told("note")
    assert "worker:1 on b: waiting for its host, worker:2 on c" in note.data["message"]


def test_a_host_that_never_answers_ends_the_start() -> None:
    history = three_hosts().at(1.0, "host_prepared", host="a").at(1.0, "host_prepared", host="c").at(900.0, "tick")
    history.at(903.1, "tick")
    assert history.over
    assert history.state.exit_code == 3
    assert history.state.first_failure is not None
    assert history.state.first_failure.message.startswith("b: not ready after 900 s: waiting for worker:0 on a")


def test_files_that_still_arrive_put_off_the_end() -> None:
    history = finishing()
    before = history.state.deadline
    history.at(18.0, "receiving", host="a")
    assert before is not None
    assert history.state.deadline == 18.0 + history.state.policy.receiving_s > before


def finishing() -> History:
    history = three_hosts()
    for host in "abc":
        history.at(1.0, "host_prepared", host=host)
    history.at(2.0, "hosts_connected")
    for name in history.state.tasks:
        history.at(2.0, "ready", name)
    return history.at(9.0, "done", "worker:0").at(9.1, "task_exited", "worker:0", exit_code=0)


def test_a_second_ctrl_c_does_not_wait_for_files() -> None:
    history = finishing().at(10.0, "signal", number=signal.SIGINT).at(11.0, "signal", number=signal.SIGINT)
    for second in range(12, 17):
        history.at(second, "receiving", host="a").at(second + 0.1, "tick")
    assert any(isinstance(action, Abandon) for _, action in history.actions)
    assert history.over


def test_what_a_task_leaves_and_never_arrives_is_a_failure() -> None:
    history = finishing()
    for name in ("worker:1", "worker:2"):
        history.at(9.4, "done", name).at(9.5, "task_exited", name, exit_code=0).at(9.6, "task_cleared", name)
    for second in range(10, 40):
        history.at(second, "tick")
    assert history.over
    assert (history.state.outcome, history.state.exit_code) == ("failed", 3)
    assert history.state.first_failure is not None
    assert "worker:0" in history.state.first_failure.message


def test_a_checkpoint_that_cannot_be_kept_is_no_failure_and_a_model_is() -> None:
    history = finishing().at(9.2, "file_lost", host="a", path="checkpoints/step-1", message="the disk is full")
    assert history.state.failures == ()
    history.at(9.3, "file_lost", host="a", path="model.keras", message="the disk is full")
    assert (history.state.outcome, history.state.exit_code) == ("failed", 1)


def test_a_host_that_has_done_all_it_had_to_may_go() -> None:
    history = finishing().at(9.5, "task_exited", "worker:1", exit_code=0).at(9.6, "task_cleared", "worker:1")
    history.at(9.7, "host_lost", host="b", message="b: gone")
    assert history.state.failures == ()


def test_hosts_are_not_connected_when_one_has_failed() -> None:
    history = three_hosts().at(1.0, "host_ending", host="a", message="a: the guard was killed")
    for host in "abc":
        history.at(1.1, "host_prepared", host=host)
    assert not any(isinstance(action, ConnectHosts) for _, action in history.actions)


# ---- programs


def test_an_evaluator_may_end_by_itself() -> None:
    history = program("worker:0", "evaluator:0", serving=("evaluator:0",))
    history.at(4.0, "task_exited", "evaluator:0", exit_code=0).at(4.1, "task_cleared", "evaluator:0")
    assert history.state.failures == ()
    history.at(5.0, "task_exited", "worker:0", exit_code=0).at(5.1, "task_cleared", "worker:0")
    assert history.state.outcome == "succeeded"


def test_the_exit_code_of_a_lone_program_is_a_failed_tasks() -> None:
    history = program("worker:0").at(5.0, "task_exited", "worker:0", exit_code=3).cleared(5.1)
    assert history.state.exit_code == 1


def test_a_program_is_done_when_every_task_has_ended_by_itself() -> None:
    history = program("worker:0", "worker:1")
    assert all(task.ready for task in history.state.tasks.values())
    history.at(5.0, "task_exited", "worker:0", exit_code=0).at(5.1, "task_cleared", "worker:0").at(500.0, "tick")
    assert history.actions == [], "the others may go on for as long as they like"
    history.at(501.0, "task_exited", "worker:1", exit_code=0).at(501.1, "task_cleared", "worker:1")
    assert history.over
    assert history.state.outcome == "succeeded"


def test_an_evaluator_is_stopped_when_the_workers_are_done() -> None:
    history = program("worker:0", "evaluator:0", serving=("evaluator:0",))
    history.at(5.0, "task_exited", "worker:0", exit_code=0)
    assert history.stops == [(5.0, Stop(("evaluator:0",), grace_s=3))]
    history.at(5.2, "task_exited", "evaluator:0", exit_code=None, signal="SIGTERM").cleared(5.3)
    assert history.over
    assert history.state.outcome == "succeeded"


@pytest.mark.parametrize("exit_code", [0, 7])
def test_the_exit_code_of_the_chief_of_a_parameter_server_program_is_the_runs(exit_code: int) -> None:
    history = program("chief:0", "worker:0", "ps:0", serving=("worker:0", "ps:0"))
    history.at(5.0, "task_exited", "chief:0", exit_code=exit_code)
    assert history.stops[0][0] == 5.0
    for name in ("worker:0", "ps:0"):
        history.at(5.2, "task_exited", name, exit_code=None, signal="SIGTERM")
    history.cleared(5.3)
    assert history.over
    assert history.state.exit_code == exit_code


def test_a_program_that_fails_is_named_and_its_peers_are_stopped() -> None:
    history = program("worker:0", "worker:1").at(5.0, "task_exited", "worker:1", exit_code=9)
    assert history.told("task_failed")[0].data["message"] == "exited with code 9"
    assert history.stops == [(5.0, Stop(grace_s=3))]
    history.at(5.2, "task_exited", "worker:0", exit_code=None, signal="SIGTERM").cleared(5.3)
    assert history.over
    assert history.state.exit_code == 1


def test_a_worker_that_ends_while_it_should_serve_is_a_failure() -> None:
    history = program("chief:0", "worker:0", "ps:0", serving=("worker:0", "ps:0"))
    history.at(5.0, "task_exited", "ps:0", exit_code=0)
    assert history.told("task_failed")[0].data["message"] == "ended with exit code 0 before its work was done"
