"""What tasks send and receive, as the kernel counts it: whose sockets, until when, and what if it cannot be told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from agent.driver import PYTHON, Host
from process_table import wait_until

from distrain.agent import traffic
from distrain.agent.traffic import CannotTell, Connection, Traffic, tcp_connections
from distrain.wire import TaskUsage

OWN = os.getpid()
MEGABYTE = 1_000_000

LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.fixture
def pairs() -> Iterator[Callable[..., tuple[socket.socket, socket.socket]]]:
    """Opens connected TCP sockets over loopback."""
    with ExitStack() as held:

        def open_pair(family: int = socket.AF_INET, address: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
            with socket.create_server((address, 0), family=family) as server:
                near = held.enter_context(socket.create_connection(server.getsockname()[:2]))
                far = held.enter_context(server.accept()[0])
                return near, far

        yield open_pair


def carry(near: socket.socket, far: socket.socket, size: int) -> None:
    """Send `size` bytes from `near` to `far`, less than their buffers hold at a time."""
    for start in range(0, size, 10_000):
        near.sendall(b"x" * min(10_000, size - start))
        left = min(10_000, size - start)
        while left:
            left -= len(far.recv(left))


@pytest.mark.parametrize(("family", "address"), LOOPBACKS, ids=["IPv4", "IPv6"])
def test_the_bytes_of_a_process_are_those_that_it_sent_and_received(
    pairs: Callable[..., tuple[socket.socket, socket.socket]], family: int, address: str
) -> None:
    try:
        near, far = pairs(family, address)
    except OSError as error:
        pytest.skip(f"no such loopback here: {error.strerror}")
    counted = Traffic()
    before = counted.sample({OWN: [OWN]})[OWN]
    carry(near, far, MEGABYTE)
    after = counted.sample({OWN: [OWN]})[OWN]
    assert before is not None
    assert after == (before[0] + MEGABYTE, before[1] + MEGABYTE)


def test_sockets_of_others_do_not_count(pairs: Callable[..., tuple[socket.socket, socket.socket]]) -> None:
    counted = Traffic()
    carry(*pairs(), 1000)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        assert counted.sample({other.pid: [other.pid]}) == {other.pid: (0, 0)}
        other.communicate()


def test_a_closed_socket_keeps_its_count(pairs: Callable[..., tuple[socket.socket, socket.socket]]) -> None:
    counted = Traffic()
    near, far = pairs()
    cookies = {each.cookie for each in tcp_connections() if each.inode in (inode(near), inode(far))}
    carry(near, far, MEGABYTE)
    before = counted.sample({OWN: [OWN]})[OWN]
    near.close()
    far.close()
    wait_until(lambda: not cookies & {each.cookie for each in tcp_connections()}, 30.0, "the kernel lets go of both")
    after = counted.sample({OWN: [OWN]})[OWN]
    assert before is not None
    assert after is not None
    # The end of a stream may count as a byte.
    assert all(0 <= now - then <= 1 for then, now in zip(before, after, strict=True))
    carry(*pairs(), 500)
    again = counted.sample({OWN: [OWN]})[OWN]
    assert again == (after[0] + 500, after[1] + 500)


def inode(of: socket.socket) -> int:
    return os.fstat(of.fileno()).st_ino


def test_descriptors_are_looked_at_only_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr(traffic, "_sockets_of", lambda pids: looked.append(pids) or iter([7] * len(pids)))
    there = [Connection(b"a", 7, 10, 20), Connection(b"b", 9, 1, 1)]
    counted = Traffic(lambda: there)
    assert counted.sample({1: [1]}) == {1: (10, 20)}
    there[0] = Connection(b"a", 7, 15, 20)
    assert counted.sample({1: [1]}) == {1: (15, 20)}
    assert len(looked) == 1
    # A new process may have what was nobody's; what a task has stays its own.
    counted.sample({1: [1, 2]})
    assert len(looked) == 2
    # A socket that nobody has yet may be somebody's later.
    there.append(Connection(b"c", 0, 3, 3))
    assert counted.sample({1: [1, 2]}) == {1: (15, 20)}
    there[-1] = Connection(b"c", 7, 4, 4)
    assert counted.sample({1: [1, 2]}) == {1: (19, 24)}


def test_a_task_that_has_gone_is_forgotten() -> None:
    there = [Connection(b"a", inode=0, sent_bytes=1, received_bytes=1)]
    counted = Traffic(lambda: there)
    assert counted.sample({1: [], 2: []}) == {1: (0, 0), 2: (0, 0)}
    assert counted.sample({2: []}) == {2: (0, 0)}


def test_a_kernel_that_does_not_answer_is_asked_once_and_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked: list[object] = []

    def dial(*_how: int) -> socket.socket:
        asked.append(None)
        return ours

    monkeypatch.setattr(traffic.socket, "socket", dial)
    counted = Traffic()
    began = time.monotonic()
    assert counted.sample({1: [1], 2: [2]}) == {1: None, 2: None}
    assert time.monotonic() - began < 10.0
    assert counted.sample({1: [1]}) == {1: None}
    assert len(asked) == 1
    theirs.close()


@pytest.mark.parametrize("error", [CannotTell(), PermissionError(1, "no"), OSError(93, "no such protocol")])
def test_without_the_kernels_word_nothing_is_told(error: Exception) -> None:
    def refuses() -> list[Connection]:
        raise error

    assert Traffic(refuses).sample({1: [1]}) == {1: None}


SENDER = """
import os, socket, time
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()
for _ in range(100):
    near.sendall(b"x" * 10_000)
    left = 10_000
    while left:
        left -= len(far.recv(left))
"""
SLEEP = "time.sleep(600)"


@pytest.mark.processes
def test_an_agent_tells_what_a_task_carried_before_it_tells_that_it_is_done(host: Host) -> None:
    host.start([*PYTHON, f'{SENDER}os.write(3, b\'{{"kind": "done"}}\\n\'); {SLEEP}'])
    host.until(lambda: any(getattr(message, "kind", "") == "done" for message in host.heard), "done")
    told = [message for message in host.heard if isinstance(message, TaskUsage)]
    assert told
    assert (told[-1].sent_bytes, told[-1].received_bytes) == (MEGABYTE, MEGABYTE)


@pytest.mark.processes
def test_a_tasks_own_processes_count(host: Host) -> None:
    host.start([*PYTHON, f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {SENDER + SLEEP!r}])"])
    host.until(lambda: any(usage.sent_bytes == MEGABYTE for usage in host.all(TaskUsage)), "what its child sent")


def test_a_sample_is_cheap(pairs: Callable[..., tuple[socket.socket, socket.socket]]) -> None:
    """Twenty tasks and forty sockets, in CPU time: about half a millisecond on a machine of today."""
    for _ in range(20):
        pairs()
    counted = Traffic()
    members = {OWN: [OWN], **{-number: [] for number in range(1, 20)}}
    counted.sample(members)
    times = []
    for _ in range(20):
        before = time.thread_time()
        counted.sample(members)
        times.append(time.thread_time() - before)
    print(f"{1000 * min(times):.2f} ms", file=sys.stderr)
    assert min(times) < 0.02
