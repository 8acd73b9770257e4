"""A host that is to be left: its tasks have time to come to an end of their own, and what they leave is sent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.driver import Host
from agent.test_shipping import CHECKPOINT, SAY, artifacts
from agent.test_warm import WarmHost
from process_table import wait_until

from distrain.agent.ending import ECHO_S, END_GRACE_S, KILL_TIMEOUT_S, PREEMPTION_GRACE_S, Asked, Ending
from distrain.agent.guard import LOST_CONNECTION_S
from distrain.errors import HostError
from distrain.launcher.hosts.bundle import make_bundle
from distrain.wire import (
    PREEMPTED_EXIT,
    AgentEnding,
    AgentNote,
    Goodbye,
    RunOpened,
    StopTasks,
    TaskCleared,
    TaskExited,
    TaskStarted,
)

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
SHORT = {"END_GRACE_S": 0.5}
"""In place of the real one: who takes longer to leave shows that another grace holds."""
LEAVES = (
    "import signal, sys\n"
    "def leave(*_):\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    "    print('asked', flush=True); time.sleep(2.0)\n"
    "    open(where, 'w').write('saved'); checkpoint(7); os._exit(42)\n"
    "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, leave)\n"
    "print('up', flush=True)\n"
    "while True: time.sleep(600)\n"
)


def test_signals_that_come_together() -> None:
    for numbers in ({TERM}, {TERM, HUP}, {TERM, INT, signal.SIGCHLD}):
        assert Ending().heed(numbers, 0.0) is Asked.TO_LEAVE
    for numbers in ({INT}, {HUP}, {INT, HUP}):
        assert Ending().heed(numbers, 0.0) is Asked.TO_END
    assert Ending().heed({signal.SIGCHLD}, 0.0) is None
    assert Ending().heed(set(), 0.0) is None


def test_an_echo_is_nothing_and_a_second_signal_is() -> None:
    ending = Ending()
    assert ending.heed({TERM}, 10.0) is Asked.TO_LEAVE
    ending.leave(10.0)
    assert ending.by == 10.0 + PREEMPTION_GRACE_S + KILL_TIMEOUT_S
    assert ending.heed({TERM}, 10.0 + 0.9 * ECHO_S) is None
    assert ending.heed({HUP}, 11.0) is None, "the end of a session"
    assert ending.heed({INT}, 11.0) is Asked.TO_END
    assert ending.heed({TERM}, 10.0 + ECHO_S) is Asked.TO_END
    ending.end(20.0, asked=True)
    assert ending.by == 20.0 + END_GRACE_S + KILL_TIMEOUT_S


def test_who_has_lost_the_launcher_can_still_be_asked_to_leave_and_who_was_told_to_end_cannot() -> None:
    lost, told = Ending(), Ending()
    lost.end(0.0, asked=False)
    assert lost.heed({TERM}, 1.0) is Asked.TO_LEAVE
    lost.leave(1.0)
    assert lost.by == 1.0 + PREEMPTION_GRACE_S + KILL_TIMEOUT_S
    told.end(0.0, asked=True)
    assert told.heed({TERM}, 1.0) is Asked.TO_END
    told.end(1.0, asked=True)
    assert told.by == END_GRACE_S + KILL_TIMEOUT_S, "no later than before"


def test_the_guard_is_more_patient() -> None:
    assert PREEMPTION_GRACE_S < LOST_CONNECTION_S


class Leaving:
    """Opens hosts whose other times are short."""

    def __init__(self, open_host: Callable[..., Host], package: Path, folder: Path) -> None:
        self._open_host = open_host
        self._package = package
        self._cache = folder / "cache"
        self.saved = folder / "saved"

    def open(self, **changes: float) -> Host:
        real = {"END_GRACE_S": END_GRACE_S, "PREEMPTION_GRACE_S": PREEMPTION_GRACE_S, "ECHO_S": ECHO_S}
        for name, seconds in {**SHORT, **changes}.items():
            self._change(f"{name} = {real[name]}", f"{name} = {seconds}")
        return self._open_host(bundle=make_bundle(self._package), cache=self._cache)

    def start(self, host: Host, code: str = LEAVES, task: str = "worker:0") -> None:
        host.run(f"where = {str(self.saved)!r}\n" + SAY + CHECKPOINT + code, task=task, cwd=folder(host))
        host.until_output(b"up", task)

    def _change(self, old: str, new: str) -> None:
        path = self._package / "agent" / "ending.py"
        assert f"\n{old}\n" in path.read_text()
        path.write_text(path.read_text().replace(f"\n{old}\n", f"\n{new}\n"))


@pytest.fixture
def leaving(open_host: Callable[..., Host], copied_package: Path, tmp_path: Path) -> Leaving:
    return Leaving(open_host, copied_package, tmp_path)


def folder(host: Host) -> str:
    return host.all(RunOpened)[0].folder + "/run" if host.all(RunOpened) else "/"


def send_all(pids: list[int]) -> None:
    """SIGTERM to every process, then SIGHUP to those that are still there."""
    for number in (TERM, HUP):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def hear_the_end(host: Host, timeout_s: float = 20.0) -> None:
    with pytest.raises(HostError, match="ended unexpectedly"):
        host.until(lambda: False, "the end", timeout_s)


@pytest.mark.processes
@pytest.mark.parametrize("whom", ["agent", "guard", "all"])
def test_tasks_end_by_themselves_and_what_they_leave_arrives(leaving: Leaving, whom: str) -> None:
    """All: SIGTERM and then SIGHUP to every process at once, as a host that shuts down sends them."""
    host = leaving.open()
    host.open_run()
    leaving.start(host, "open('log', 'w').write('rest')\n" + LEAVES)
    if whom == "all":
        everything = [process.pid for process in host.processes()]
        assert len(everything) == 3
        send_all(everything)
    else:
        os.kill(host.guard_pid if whom == "guard" else host.agent_pid, TERM)
    ending = host.wait_for(AgentEnding)
    assert ending.preempted
    assert "SIGTERM" in ending.reason
    hear_the_end(host)
    assert (host.exited().exit_code, host.exited().signal) == (PREEMPTED_EXIT, None)
    assert len(host.all(AgentEnding)) == 1
    order = [type(m) for m in host.heard if isinstance(m, (AgentEnding, TaskExited, TaskCleared))]
    assert order == [AgentEnding, TaskExited, TaskCleared]
    checkpoint, log = artifacts(host.heard)
    assert (checkpoint.path, sorted(checkpoint.files)) == ("checkpoints/step-7", ["checkpoint.json", "state.npz"])
    assert (log.path, log.files) == ("log", {"": b"rest"})
    assert not host.all(AgentNote)
    host.nothing_left()
    assert not os.path.exists(folder(host))


@pytest.mark.processes
def test_a_warm_task_does_not_mind_what_becomes_of_the_process_that_it_was_forked_from(
    open_host: Callable[..., Host], copied_package: Path, tmp_path: Path
) -> None:
    warm = WarmHost(open_host, copied_package, tmp_path)
    warm.preload()
    code = SAY + CHECKPOINT + LEAVES.replace("sleep(2.0)", "sleep(0.5)")
    started = f"where = {str(tmp_path / 'saved')!r}\n" + code.replace("def checkpoint", "checkpoint = print\ndef _")
    warm.start(started)
    warm.host.until_output(b"up")
    warm.host.wait_for(TaskStarted)
    everything = [process.pid for process in warm.host.processes()]
    assert warm.preload_pid in everything
    send_all(everything)
    assert warm.host.exited().exit_code == PREEMPTED_EXIT
    hear_the_end(warm.host)
    assert (tmp_path / "saved").read_text() == "saved"
    assert not warm.host.all(AgentNote)


@pytest.mark.processes
def test_a_task_that_does_not_leave_is_killed_and_no_other_starts(leaving: Leaving) -> None:
    host = leaving.open(PREEMPTION_GRACE_S=2.0)
    leaving.start(host, LEAVES.replace("time.sleep(2.0)", "time.sleep(600)"))
    began = time.monotonic()
    os.kill(host.agent_pid, TERM)
    host.wait_for(AgentEnding, preempted=True)
    host.start(["true"], task="worker:1")
    assert "SIGTERM" in str(host.exited("worker:1").message)
    host.until(lambda: any(m.task == "worker:0" for m in host.all(TaskExited)), "its end")
    assert time.monotonic() - began > 2.0
    assert host.exited("worker:0").signal == signal.SIGKILL
    assert host.exited("worker:0").why is None
    hear_the_end(host)


@pytest.mark.processes
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_connection_that_goes_too_costs_the_tasks_no_time(leaving: Leaving, order: str) -> None:
    host = leaving.open(END_GRACE_S=2.0)  # within which the signal comes
    leaving.start(host, LEAVES.replace("time.sleep(2.0)", "time.sleep(3.0)"))
    if order == "before":
        host.link.hang_up()
    os.kill(host.agent_pid, TERM)
    if order == "after":
        host.wait_for(AgentEnding)
        host.link.hang_up()
    wait_until(leaving.saved.exists, 15.0, "the task has had its time")
    host.nothing_left()


@pytest.mark.processes
@pytest.mark.parametrize("how", ["goodbye", "a second signal", "SIGINT", "a stop"])
def test_who_wants_it_sooner_gets_it(leaving: Leaving, how: str) -> None:
    host = leaving.open(ECHO_S=0.1)
    leaving.start(host)
    os.kill(host.agent_pid, TERM)
    host.until_output(b"asked")
    if how == "goodbye":
        host.link.send(Goodbye())
    elif how == "a stop":
        host.link.send(StopTasks((), 0.0))
    else:
        time.sleep(0.2)  # beyond an echo
        os.kill(host.agent_pid, INT if how == "SIGINT" else TERM)
    assert host.exited().signal == signal.SIGKILL
    host.nothing_left()
    assert not leaving.saved.exists()


@pytest.mark.processes
def test_without_tasks_it_ends_at_once(leaving: Leaving) -> None:
    host = leaving.open()
    os.kill(host.agent_pid, TERM)
    hear_the_end(host)
    assert [ending.preempted for ending in host.all(AgentEnding)] == [True]
    assert host.link.wait(5.0) == 0
