"""Harm on demand: done to whom it was meant for, told, and undone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import wait_until

from distrain.agent import harm
from distrain.agent.harm import interfaces
from distrain.wire import Harm, Harmed, StopTasks, TaskUsage

pytestmark = pytest.mark.processes

UP = "print('up', flush=True); import time; time.sleep(600)"
HERE = '{"worker:0": "127.0.0.1:4001", "worker:1": "localhost:4002"}'


def do(host: Host, kind: str, **values: object) -> str | None:
    """The error."""
    already = len(host.all(Harmed))
    host.link.send(Harm(kind, **values))  # type: ignore[arg-type]
    host.until(lambda: len(host.all(Harmed)) > already, "an answer")
    assert host.all(Harmed)[-1].kind == kind
    return host.all(Harmed)[-1].error


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_kill_hits_the_main_process_of_the_named_task(host: Host) -> None:
    for number in range(3):
        host.run(UP, task=f"worker:{number}")
    assert do(host, "kill", tasks=("worker:1",)) is None
    exited = host.exited("worker:1")
    assert (exited.signal, exited.why) == (signal.SIGKILL, None)
    host.cleared("worker:1")
    assert "worker:1" in str(do(host, "kill", tasks=("worker:0", "worker:1")))
    host.exited("worker:0")
    assert do(host, "kill") is None
    host.exited("worker:2")
    assert "no task" in str(do(host, "kill"))


def test_a_stop_is_over_after_its_time(host: Host) -> None:
    """As the task sees it, which cannot miss it: the longest time that it did nothing, once it has had a SIGCONT."""
    host.run(
        "import signal, time\n"
        "resumed = []\n"
        "signal.signal(signal.SIGCONT, lambda *_: resumed.append(True))\n"
        "print('up', flush=True)\n"
        "last, longest = time.monotonic(), 0.0\n"
        "while True:\n"
        "    time.sleep(0.02)\n"
        "    stopped = bool(resumed)\n"  # before the time is taken, which then has all of it
        "    now = time.monotonic()\n"
        "    last, longest = now, max(longest, now - last)\n"
        "    if stopped: print('stopped for', longest, flush=True); resumed.clear()\n"
    )
    host.until_output(b"up")
    assert do(host, "stop", tasks=("worker:0",), seconds=1.0) is None
    host.until_output(b"stopped for")
    host.until(lambda: host.output().endswith(b"\n"), "all of the line")
    assert float(host.output().split()[-1]) >= 0.9


def test_a_stop_without_an_end_lasts(host: Host) -> None:
    pid = host.run(UP).pid
    host.until_output(b"up")
    assert do(host, "stop", tasks=("worker:0",)) is None
    host.until(lambda: any(usage.stopped for usage in host.all(TaskUsage)), "that it is told")
    assert state_of(pid) == "T"
    host.link.send(StopTasks((), 10.0))
    assert host.exited().signal == signal.SIGTERM


def test_what_is_unknown_is_said_to_be(host: Host) -> None:
    assert "'flood' is no harm" in str(do(host, "flood"))
    assert "no folder was named" in str(do(host, "fill", seconds=1.0))
    assert "cannot be filled" in str(do(host, "fill", seconds=1.0, folder="/no/such/folder"))


# ---- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bfree * disk.f_frsize


def test_a_disk_is_full_for_a_while_and_nothing_of_it_is_to_be_seen(host: Host, small_disk: Path) -> None:
    before = free_bytes(small_disk)
    assert do(host, "fill", seconds=2.0, folder=str(small_disk)) is None
    assert 0 < free_bytes(small_disk) <= harm.LEFT_BYTES
    assert list(small_disk.iterdir()) == []
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "more").write_bytes(bytes(2 * harm.LEFT_BYTES))
    (small_disk / "more").unlink()
    assert "already" in str(do(host, "fill", seconds=1.0, folder=str(small_disk)))
    wait_until(lambda: free_bytes(small_disk) == before, 10.0, "it is given back")
    assert do(host, "fill", seconds=600.0, folder=str(small_disk)) is None, "and can be taken again"


@pytest.mark.parametrize("ending", ["hang up", "kill"])
def test_a_full_disk_is_given_back_at_the_end(host: Host, small_disk: Path, ending: str) -> None:
    before = free_bytes(small_disk)
    assert do(host, "fill", folder=str(small_disk)) is None
    assert free_bytes(small_disk) <= harm.LEFT_BYTES
    if ending == "kill":
        os.kill(host.agent_pid, signal.SIGKILL)
    host.link.hang_up()
    wait_until(lambda: free_bytes(small_disk) == before, 15.0, "it is given back")


def test_on_a_far_host_it_is_the_disk_of_the_runs_folder(open_host: Callable[..., Host], small_disk: Path) -> None:
    host = open_host(cache=small_disk)
    host.open_run()
    assert do(host, "fill", seconds=600.0) is None
    assert free_bytes(small_disk) <= harm.LEFT_BYTES
    host.link.hang_up()
    host.nothing_left()
    assert free_bytes(small_disk) > 4 << 20


# ---- the network


def test_the_interfaces_that_tasks_speak_over() -> None:
    loopback = ["127.0.0.1:80", "localhost:81", "[::1]:82"]
    assert interfaces(loopback) == ("lo",)
    for addresses in ([*loopback, "10.1.2.3:80"], []):
        assert "lo" not in interfaces(addresses)


@pytest.fixture
def in_a_net_of_its_own(cache: Path, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Opens hosts whose agents have a network namespace of their own, and so slow nobody else's loopback."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode != 0:
        pytest.skip("only root can make a network namespace")
    if shutil.which("tc") is None:
        pytest.skip("there is no `tc` here")
    hosts: list[Host] = []
    python = tmp_path / "python"
    inside = 'ip link set lo up; exec "$0" "$@"'
    python.write_text(f"#!/bin/sh\nexec unshare -n sh -c '{inside}' {sys.executable} \"$@\"\n")
    python.chmod(0o700)

    def open_one(**options: object) -> Host:
        hosts.append(Host(cache=cache, python=str(python), **options))  # type: ignore[arg-type]
        return hosts[-1]

    yield open_one
    for host in hosts:
        host.end()


def disciplines(host: Host) -> str:
    """What `tc` says of the host's loopback."""
    command = ["nsenter", f"--net=/proc/{host.agent_pid}/ns/net", "tc", "qdisc", "show", "dev", "lo"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def round_trip_s(host: Host) -> float:
    """How long it takes some 200 KB to go over the host's loopback, as a task sees it."""
    task = f"worker:{time.monotonic_ns()}"
    host.run(
        "import socket, threading, time\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "def answer():\n"
        "    there, _ = server.accept()\n"
        "    left = 200_000\n"
        "    while left: left -= len(there.recv(left))\n"
        "    there.send(b'.')\n"
        "threading.Thread(target=answer).start()\n"
        "here = socket.create_connection(server.getsockname())\n"
        "began = time.monotonic(); here.sendall(bytes(200_000)); here.recv(1); print(time.monotonic() - began)\n",
        task=task,
    )
    host.cleared(task)
    return float(host.output(task))


def test_a_slow_network_is_slow_and_is_quick_again(in_a_net_of_its_own: Callable[..., Host]) -> None:
    host = in_a_net_of_its_own()
    host.run(UP, env={"DISTRAIN_ADDRESSES": HERE})
    error = do(host, "slow", seconds=600.0, amount=100.0)
    if error is not None and "tc" in error:
        pytest.skip(error)
    assert error is None
    assert round_trip_s(host) > 0.09
    assert "already" in str(do(host, "slow", seconds=600.0, amount=100.0))
    net = os.open(f"/proc/{host.agent_pid}/ns/net", os.O_RDONLY)  # outlives the agent
    try:
        host.link.hang_up()
        host.nothing_left()
        show = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{net}", "tc", "qdisc", "show", "dev", "lo"]
        assert "d157:" not in subprocess.run(show, capture_output=True, text=True, check=True).stdout
    finally:
        os.close(net)


def test_it_is_quick_again_after_its_time_and_can_be_slowed_again(in_a_net_of_its_own: Callable[..., Host]) -> None:
    host = in_a_net_of_its_own()
    host.run(UP, env={"DISTRAIN_ADDRESSES": HERE})
    for _ in range(2):
        error = do(host, "slow", seconds=0.5, amount=50.0)
        if error is not None and "tc" in error:
            pytest.skip(error)
        assert error is None
        wait_until(lambda: "d157:" not in disciplines(host), 10.0, "it is quick again")


def test_what_somebody_else_has_set_is_not_touched(in_a_net_of_its_own: Callable[..., Host]) -> None:
    host = in_a_net_of_its_own()
    host.run(UP, env={"DISTRAIN_ADDRESSES": HERE})
    inside = ["nsenter", f"--net=/proc/{host.agent_pid}/ns/net", "tc", "qdisc"]
    subprocess.run([*inside, "add", "dev", "lo", "root", "handle", "7:", "pfifo", "limit", "77"], check=True)
    assert "lo cannot be slowed" in str(do(host, "slow", seconds=1.0, amount=50.0))
    assert "limit 77" in disciplines(host)


@pytest.mark.parametrize(
    ("addresses", "amount", "words"), [(HERE, 0.0, "more than 0"), ('{"worker:0": "10.0.0.1:5"}', 5.0, "no network")]
)
def test_why_a_network_is_not_slowed(
    in_a_net_of_its_own: Callable[..., Host], addresses: str, amount: float, words: str
) -> None:
    host = in_a_net_of_its_own()
    host.run(UP, env={"DISTRAIN_ADDRESSES": addresses})
    assert words in str(do(host, "slow", seconds=1.0, amount=amount))


def test_without_tc_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harm, "_tc", lambda: None)
    assert "install iproute2" in str(harm.slow(("lo",), 5.0)["error"])


def test_nobody_but_root_is_let(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Harmed] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    harms = harm.Harms(asides=None, running=lambda names: [], emit=told.append)  # type: ignore[arg-type]
    harms.do(Harm("slow", amount=5.0, seconds=1.0), None)
    assert "only root" in str(told[0].error)
