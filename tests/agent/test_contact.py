"""A launcher of which nothing is heard any more, though its connection stays open."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import wait_until

from distrain.errors import HostError
from distrain.launcher.hosts.bundle import make_bundle
from distrain.wire import AgentEnding, Ping, Pong

pytestmark = pytest.mark.processes

TIMEOUT_S = 1.0
UP = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def busy(open_host: Callable[..., Host], tmp_path: Path) -> Host:
    """A host far away with a task that is up."""
    return start_task(open_host(cache=tmp_path))


def start_task(host: Host) -> Host:
    host.open_run(contact_timeout_s=TIMEOUT_S)
    host.run(UP)
    host.until_output(b"up")
    return host


def ping_until(host: Host, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Say that we are there as the launcher does, until `condition()`."""
    deadline = time.monotonic() + timeout_s
    number = 0
    while not condition():
        assert time.monotonic() < deadline, what
        host.link.send(Ping(number := number + 1))
        host.pump(TIMEOUT_S / 4)


def folders(cache: Path) -> list[Path]:
    return list((cache / "distrain" / "runs").glob("mnist-*"))


def test_pings_are_answered_and_keep_the_contact(busy: Host) -> None:
    began = time.monotonic()
    ping_until(busy, lambda: time.monotonic() > began + 3 * TIMEOUT_S, "three times the timeout")
    busy.link.send(Ping(1_000_000))
    busy.wait_for(Pong, number=1_000_000)
    assert [pong.number for pong in busy.all(Pong)][:3] == [1, 2, 3]
    assert not busy.all(AgentEnding)


def test_silence_ends_everything(busy: Host, tmp_path: Path) -> None:
    began = time.monotonic()
    ending = busy.wait_for(AgentEnding)
    assert 0.9 * TIMEOUT_S < time.monotonic() - began < TIMEOUT_S + 3.0
    assert ending.reason == "nothing has been heard of the launcher for 1 s"
    assert busy.nothing_left() < 8.0
    assert folders(tmp_path) == []


def test_silence_ends_everything_though_nobody_reads(busy: Host, tmp_path: Path) -> None:
    """As when sshd keeps both directions open: what cannot be sent is not waited for."""
    busy.run("import os\nwhile True: os.write(1, bytes(1 << 16))", task="worker:1")
    assert busy.nothing_left(30.0) < TIMEOUT_S + 15.0
    assert folders(tmp_path) == []


def test_without_a_run_of_its_own_silence_means_nothing(host: Host) -> None:
    host.run(UP)
    host.until_output(b"up")
    assert host.processes()
    with contextlib.suppress(AssertionError):
        host.wait_for(AgentEnding, timeout_s=2 * TIMEOUT_S)
    assert not host.all(AgentEnding)


def test_an_agent_that_was_stopped_reads_before_it_judges(busy: Host) -> None:
    os.kill(busy.agent_pid, signal.SIGSTOP)
    stopped = time.monotonic()
    number = 100
    while time.monotonic() < stopped + 2.5 * TIMEOUT_S:  # the launcher goes on as ever, and is heard of later
        busy.link.send(Ping(number := number + 1))
        busy.pump(TIMEOUT_S / 4)
    assert not busy.all(Pong)
    os.kill(busy.agent_pid, signal.SIGCONT)
    ping_until(busy, lambda: any(pong.number == number for pong in busy.all(Pong)), "the answers")
    assert not busy.all(AgentEnding)


def test_a_host_that_was_frozen_gives_the_launcher_time(busy: Host) -> None:
    """All of it, with what brings the launcher's bytes: nothing has arrived when the agent goes on."""
    for pid in (busy.guard_pid, busy.agent_pid):
        os.kill(pid, signal.SIGSTOP)
    select.select([], [], [], 2 * TIMEOUT_S)
    for pid in (busy.agent_pid, busy.guard_pid):
        os.kill(pid, signal.SIGCONT)
    busy.pump(TIMEOUT_S / 4)
    busy.link.send(Ping(1))
    busy.wait_for(Pong, number=1)
    assert not busy.all(AgentEnding)


def impatient(package: Path) -> Path:
    """distrain's code with the guard's patience cut from half a minute to a second."""
    guard = package / "agent" / "guard.py"
    source = guard.read_text()
    assert "LOST_CONNECTION_S = 30.0" in source
    guard.write_text(source.replace("LOST_CONNECTION_S = 30.0", "LOST_CONNECTION_S = 1.0"))
    return package


def test_an_agent_that_hangs_is_ended_though_the_connection_seems_open(
    open_host: Callable[..., Host], copied_package: Path, tmp_path: Path
) -> None:
    host = start_task(open_host(bundle=make_bundle(impatient(copied_package)), cache=tmp_path))
    os.kill(host.agent_pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(HostError, match="SIGKILL"):
        ping_until(host, lambda: False, "the end")
    assert TIMEOUT_S + 0.9 < time.monotonic() - began < 8.0
    assert host.processes() == []
    assert folders(tmp_path) == []


def test_an_agent_that_is_heard_of_is_not_ended(
    open_host: Callable[..., Host], copied_package: Path, tmp_path: Path
) -> None:
    host = start_task(open_host(bundle=make_bundle(impatient(copied_package)), cache=tmp_path))
    began = time.monotonic()
    ping_until(host, lambda: time.monotonic() > began + 2 * (TIMEOUT_S + 1.0), "twice the guard's patience")
    os.kill(host.guard_pid, signal.SIGSTOP)  # the guard, too, judges by the time in which it could have heard
    ping_until(host, lambda: time.monotonic() > began + 4 * (TIMEOUT_S + 1.0), "again, with the guard stopped")
    os.kill(host.guard_pid, signal.SIGCONT)
    ping_until(host, lambda: time.monotonic() > began + 5 * (TIMEOUT_S + 1.0), "and once more")
    assert not host.all(AgentEnding)


def test_the_agent_is_killed_though_the_connection_seems_open(busy: Host, tmp_path: Path) -> None:
    os.kill(busy.agent_pid, signal.SIGKILL)
    assert busy.nothing_left() < 5.0
    wait_until(lambda: folders(tmp_path) == [], 5.0, "the folder is removed")


def test_a_launcher_that_asks_for_nothing_at_all_is_gone(
    open_host: Callable[..., Host], copied_package: Path, tmp_path: Path
) -> None:
    main = copied_package / "agent" / "main.py"
    source = main.read_text()
    assert "FIRST_ORDER_S = 300.0" in source
    main.write_text(source.replace("FIRST_ORDER_S = 300.0", "FIRST_ORDER_S = 0.5"))
    bundle = make_bundle(copied_package)
    silent, asking = open_host(bundle=bundle, cache=tmp_path), open_host(bundle=bundle, cache=tmp_path)
    asking.link.send(Ping(1))
    silent.wait_for(AgentEnding)
    assert silent.nothing_left() < 5.0
    asking.link.send(Ping(2))
    asking.wait_for(Pong, number=2)


def test_a_launcher_that_never_begins_is_gone(copied_package: Path) -> None:
    source = (copied_package / "agent" / "bootstrap.py").read_text()
    assert "_PATIENCE_S = 300" in source
    patient = source.replace("_PATIENCE_S = 300", "_PATIENCE_S = 1")
    with subprocess.Popen([sys.executable, "-S", "-c", patient], stdin=subprocess.PIPE) as bootstrap:
        assert bootstrap.wait(10.0) == -signal.SIGALRM
