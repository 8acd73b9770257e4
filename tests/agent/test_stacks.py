"""Where the threads of a task are, on demand: from cold and warm tasks, running, stopped, deaf and gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.driver import Host
from agent.test_warm import WarmHost

from distrain.wire import DumpStacks, Ping, Pong, StopTasks, TaskExited, TaskStacks, TaskUsage

pytestmark = pytest.mark.processes

TELLS = (
    "import faulthandler, os, signal, threading, time\n"
    "faulthandler.register(signal.SIGUSR2, file=int(os.environ['DISTRAIN_STACKS_FD']), all_threads=True)\n"
    "os.write(int(os.environ['DISTRAIN_STACKS_FD']), b'\\n')\n"
    "def nap(): print('up', flush=True); time.sleep(600)\n"
)
NAPS = TELLS + "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\nnap()\n"
DEAF = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n"


def ask(host: Host, *tasks: str) -> list[TaskStacks]:
    """What is answered, in order."""
    already = len(host.all(TaskStacks))
    host.link.send(DumpStacks(tasks))
    host.until(lambda: len(host.all(TaskStacks)) == already + len(tasks), "an answer for each")
    return host.all(TaskStacks)[already:]


def up(host: Host, code: str, task: str = "worker:0", **options: object) -> int:
    pid = host.run(code, task=task, **options).pid
    host.until_output(b"up", task)
    return pid


def test_each_time_the_stacks_of_that_time(host: Host) -> None:
    up(host, NAPS, attempt=3)
    for _ in range(3):
        (told,) = ask(host, "worker:0")
        assert (told.task, told.attempt) == ("worker:0", 3)
        assert b"in nap" in told.data
        assert told.data.count(b"Current thread") == 1
        assert told.data.count(b"hread 0x") == 2
    assert not host.all(TaskExited)


def test_who_cannot_tell_is_answered_for_and_goes_on(host: Host) -> None:
    """A program that knows of nothing; a shell whose child has written into the file that both hold."""
    up(host, "print('up', flush=True); import time; time.sleep(600)", "worker:0")
    host.start(["sh", "-c", "echo >&4; echo up; sleep 600; true"], task="worker:1")
    host.until_output(b"up", "worker:1")
    told = ask(host, "worker:0", "worker:1")
    assert {(each.task, each.data) for each in told} == {("worker:0", b""), ("worker:1", b"")}
    host.link.send(StopTasks((), 10.0))
    assert host.exited("worker:0").signal == signal.SIGTERM
    assert host.exited("worker:1").signal == signal.SIGTERM


def test_a_stopped_task_is_told_to_be_so_and_tells_its_stacks_all_the_same(host: Host) -> None:
    pid = up(host, NAPS)
    os.kill(pid, signal.SIGSTOP)
    host.until(lambda: host.all(TaskUsage) and host.all(TaskUsage)[-1].stopped, "that it is stopped")
    assert b"in nap" in ask(host, "worker:0")[0].data
    host.until(lambda: not host.all(TaskUsage)[-1].stopped, "that it runs")


def test_nothing_is_told_of_a_task_that_is_not_there(host: Host) -> None:
    up(host, NAPS, "worker:1")
    host.link.send(DumpStacks(("worker:7", "worker:1")))
    host.wait_for(TaskStacks, task="worker:1")
    host.link.send(Ping(1))
    host.wait_for(Pong)
    assert [told.task for told in host.all(TaskStacks)] == ["worker:1"]


def test_a_deaf_task_keeps_nobody_waiting(host: Host) -> None:
    up(host, TELLS + DEAF + "nap()", "worker:0")
    up(host, NAPS, "worker:1")
    host.link.send(DumpStacks(("worker:0", "worker:1")))
    host.link.send(DumpStacks(("worker:0",)))
    host.link.send(Ping(5))
    host.wait_for(TaskStacks, task="worker:0", timeout_s=5.0)
    order = [type(message) for message in host.heard if isinstance(message, (Pong, TaskStacks))]
    assert order[0] is Pong, "the loop goes on meanwhile"
    assert [told.task for told in host.all(TaskStacks)] == ["worker:1", "worker:0"]
    assert host.all(TaskStacks)[-1].data == b""


def test_a_task_that_ends_meanwhile_has_answered_before(host: Host) -> None:
    up(host, TELLS + DEAF + "nap()")
    host.link.send(DumpStacks(("worker:0",)))
    host.link.send(StopTasks((), 0.0))
    host.cleared()
    kinds = [type(message) for message in host.heard]
    assert kinds.index(TaskStacks) < kinds.index(TaskExited)


def test_a_warm_task_has_the_file_too(open_host: Callable[..., Host], copied_package: Path, tmp_path: Path) -> None:
    warm = WarmHost(open_host, copied_package, tmp_path)
    warm.preload()
    for attempt in (1, 2):
        warm.start(NAPS.replace("def nap", "global nap\ndef nap"), attempt=attempt)
        warm.host.until(lambda n=attempt: warm.host.output().count(b"up") == n, "it runs")
        (told,) = ask(warm.host, "worker:0")
        assert told.attempt == attempt
        assert told.data.count(b"Current thread") == 1
        assert b"in nap" in told.data
        warm.host.link.send(StopTasks((), 10.0))
        warm.host.cleared(attempt=attempt)
