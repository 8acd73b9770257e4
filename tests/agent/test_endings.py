"""No way of ending leaves a process behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.driver import Host

from distrain.errors import HostError
from distrain.launcher.hosts.bundle import make_bundle
from distrain.wire import Goodbye, StopTasks

pytestmark = pytest.mark.processes

STUBBORN = (
    "import os, signal, time\n"
    "for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
)
WITH_CHILDREN = (
    "import os, subprocess, time\n"
    "subprocess.Popen(['sh', '-c', 'sleep 601 & sleep 602'])\n"
    "subprocess.Popen(['sleep', '603'], start_new_session=True)\n"
)
WITH_DAEMON = (
    "import os, time\n"
    "def daemon():\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        if os.fork() == 0:\n"
    "            for fd in range(0 if closed else 3): os.close(fd)\n"
    "            os.execvp('sleep', ['sleep', '604'])\n"
    "        os._exit(0)\n"
    "    os.wait()\n"
    "for closed in (True, False): daemon()\n"
)
UP = "print('up', flush=True); import time; time.sleep(600)\n"
PROGRAMS = {
    "has children": WITH_CHILDREN + UP,
    "has daemons": WITH_DAEMON + UP,
    "ignores TERM, has all": STUBBORN + WITH_CHILDREN + WITH_DAEMON + UP,
}


@pytest.fixture(params=PROGRAMS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def busy(request: pytest.FixtureRequest, host: Host) -> Host:
    """A host with two tasks of a kind, both up."""
    for task in ("worker:0", "worker:1"):
        host.run(PROGRAMS[request.param], task=task)
    for task in ("worker:0", "worker:1"):
        host.until_output(b"up", task)
    assert len(host.processes()) >= 4
    return host


def test_goodbye(busy: Host) -> None:
    busy.link.send(StopTasks((), 0.5))
    busy.link.send(Goodbye())
    busy.until(lambda: busy.link.ended, "the end of the stream")
    assert busy.processes() == [], "the stream ends when the host is clean, not before"
    assert busy.link.wait(5.0) == 0
    busy.cleared("worker:0")
    busy.cleared("worker:1")


def test_the_launcher_is_gone(busy: Host) -> None:
    busy.link.hang_up()
    assert busy.nothing_left() < 8.0


def test_the_launcher_is_gone_without_reading_to_the_end(busy: Host) -> None:
    """As after kill -9: both directions are closed at once."""
    for fd in busy.link.interest():
        os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    busy.link.hang_up()
    assert busy.nothing_left() < 8.0


def test_the_agent_is_killed(busy: Host) -> None:
    os.kill(busy.agent_pid, signal.SIGKILL)
    with pytest.raises(HostError, match=r"local: .*SIGKILL"):
        busy.until(lambda: False, "the end")
    assert busy.processes() == [], "the stream ends when the host is clean, not before"


def test_the_guard_is_killed(busy: Host) -> None:
    os.kill(busy.guard_pid, signal.SIGKILL)
    assert busy.nothing_left() < 8.0


def test_the_guards_process_group_is_killed(busy: Host) -> None:
    os.killpg(busy.guard_pid, signal.SIGKILL)
    assert busy.nothing_left() < 8.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("whom", ["guard", "agent"])
def test_a_signal(busy: Host, whom: str, number: signal.Signals) -> None:
    os.kill(busy.guard_pid if whom == "guard" else busy.agent_pid, number)
    assert busy.nothing_left() < 8.0


def test_the_agent_is_stopped_and_then_killed(busy: Host) -> None:
    os.kill(busy.agent_pid, signal.SIGSTOP)
    os.kill(busy.agent_pid, signal.SIGKILL)
    assert busy.nothing_left() < 5.0


def test_tasks_die_with_guard_and_agent(host: Host) -> None:
    host.run(STUBBORN + UP)
    host.until_output(b"up")
    for pid in (host.guard_pid, host.agent_pid):
        os.kill(pid, signal.SIGKILL)
    assert host.nothing_left() < 5.0


def test_a_task_that_ends_takes_its_own_with_it_and_nobody_elses(host: Host) -> None:
    host.run(WITH_CHILDREN + PROGRAMS["has daemons"], task="worker:1")
    host.until_output(b"up", "worker:1")
    others = {process.pid for process in host.processes()}
    host.run(STUBBORN + WITH_CHILDREN + WITH_DAEMON, task="worker:0")
    host.cleared("worker:0")
    assert {process.pid for process in host.processes()} == others


def test_a_daemon_that_holds_the_output_does_not_delay_for_ever(host: Host) -> None:
    began = time.monotonic()
    host.run("closed = False\n" + WITH_DAEMON.replace("for closed in (True, False): daemon()", "daemon()"))
    host.cleared()
    assert time.monotonic() - began < 5.0


def test_a_task_that_forks_all_the_time(host: Host) -> None:
    host.run(
        STUBBORN + "print('up', flush=True)\n"
        "for _ in range(3000):\n"  # a chain: each lives a moment and leaves the next one behind
        "    if os.fork(): time.sleep(0.002); os._exit(0)\n"
        "    os.setsid()\n"
    )
    host.until_output(b"up")
    host.exited()
    host.link.hang_up()
    assert host.nothing_left() < 8.0


def test_the_guard_ends_an_agent_that_hangs(open_host: Callable[..., Host], copied_package: Path) -> None:
    """With the guard's patience cut from half a minute to two seconds."""
    guard = copied_package / "agent" / "guard.py"
    source = guard.read_text()
    assert "LOST_CONNECTION_S = 30.0" in source
    guard.write_text(source.replace("LOST_CONNECTION_S = 30.0", "LOST_CONNECTION_S = 2.0"))
    host = open_host(bundle=make_bundle(copied_package))
    host.run(UP)
    os.kill(host.agent_pid, signal.SIGSTOP)
    host.link.hang_up()
    assert 1.5 < host.nothing_left() < 8.0
