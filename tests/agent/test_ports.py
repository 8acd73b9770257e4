"""Ports that the agent holds for its tasks."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
from agent.driver import Host

from distrain.wire import Goodbye, PortsReserved, ReservePorts, StopTasks

pytestmark = pytest.mark.processes


def reserve(host: Host, count: int, among: tuple[int, ...] = ()) -> tuple[int, ...]:
    answered = len(host.all(PortsReserved))
    host.link.send(ReservePorts(count, among))
    host.until(lambda: len(host.all(PortsReserved)) > answered, "the ports")
    return host.all(PortsReserved)[-1].ports


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def bind(
    sockets: contextlib.ExitStack, port: int, *, family: int = socket.AF_INET, reuse: bool = False
) -> socket.socket:
    bound = sockets.enter_context(socket.socket(family, socket.SOCK_STREAM))
    if reuse:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("", port))
    return bound


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_held_port_is_for_a_server_that_reuses_addresses_and_for_nobody_else(
    host: Host, sockets: contextlib.ExitStack
) -> None:
    (port,) = reserve(host, 1)
    with pytest.raises(OSError, match="in use"):
        bind(sockets, port)
    bind(sockets, port, reuse=True).listen()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_a_server_for_both_families_gets_it_too(host: Host, sockets: contextlib.ExitStack) -> None:
    (port,) = reserve(host, 1)
    server = sockets.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("::", port))
    server.listen()
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_two_agents_never_have_the_same_port(open_host: Callable[..., Host]) -> None:
    hosts = open_host(), open_host()
    candidates = tuple({free_port() for _ in range(8)})
    for host in hosts:
        host.link.send(ReservePorts(3, candidates))
        host.link.send(ReservePorts(50))
    got = []
    for host in hosts:
        host.until(lambda host=host: len(host.all(PortsReserved)) == 2, "both answers")
        got += [port for answer in host.all(PortsReserved) for port in answer.ports]
    assert len(got) == len(set(got)) == 2 * (3 + 50)


def test_candidates_are_taken_in_order_and_those_in_use_are_skipped(host: Host, sockets: contextlib.ExitStack) -> None:
    ports = [free_port() for _ in range(4)]
    bind(sockets, ports[0])
    bind(sockets, ports[1], reuse=True).listen()
    assert reserve(host, 2, tuple(ports)) == tuple(ports[2:])


def test_a_port_whose_last_connection_has_just_ended_is_free(host: Host, sockets: contextlib.ExitStack) -> None:
    server = bind(sockets, 0, reuse=True)
    server.listen()
    port = server.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = server.accept()
    for end in (accepted, client, server):
        end.close()  # the server's side closes first, and its port is left in TIME_WAIT
    assert reserve(host, 1, (port,)) == (port,)


def test_fewer_candidates_than_wanted(host: Host) -> None:
    port = free_port()
    assert reserve(host, 3, (port, port, 70000)) == (port,)


def test_ports_are_free_again_at_the_end(host: Host, sockets: contextlib.ExitStack) -> None:
    ports = reserve(host, 3)
    host.link.send(Goodbye())
    host.until(lambda: host.link.ended, "the end")
    for port in ports:
        bind(sockets, port)


SERVES = (
    "import os, socket\n"
    "server = socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET)\n"
    "server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
    "server.bind(('', PORT)); server.listen(); print('up', flush=True)\n"
    "kept = []\n"
    "while True: kept.append(server.accept()[0]); kept[-1].send(b'hello')\n"
)


@pytest.mark.parametrize("grace_s", [0.0, 5.0], ids=["killed", "terminated"])
def test_each_attempt_has_the_port_again(host: Host, sockets: contextlib.ExitStack, grace_s: float) -> None:
    """Though connections of the attempt before are still open at their other ends, and nobody else ever gets it."""
    (port,) = reserve(host, 1)
    for attempt in (1, 2, 3):
        host.run(SERVES.replace("PORT", str(port)), attempt=attempt)
        host.until(lambda n=attempt: host.output().count(b"up") == n, "it listens")
        client = sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        assert client.recv(5) == b"hello"
        host.link.send(StopTasks((), grace_s, again=True))
        host.cleared(attempt=attempt)
        with pytest.raises(OSError, match="in use"):
            bind(sockets, port)


def test_tasks_do_not_inherit_the_reservation(host: Host) -> None:
    reserve(host, 1)
    host.start(["sh", "-c", "ls -l /proc/self/fd; ls -l /proc/$$/fd"])
    host.cleared()
    assert b"pipe:" in host.output()
    assert b"socket:" not in host.output()
