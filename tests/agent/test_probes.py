"""Whether hosts reach each other on the ports that their tasks will use."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from agent.driver import PYTHON, Host

from distrain.wire import Ping, Pong, PortsReserved, Probe, Probed, ReservePorts, Welcome

pytestmark = pytest.mark.processes

TOKEN = "a word of its own"
HAS_IPV6 = socket.has_dualstack_ipv6()

SERVE = """
import socket, sys
for port in map(int, sys.argv[1:]):
    for family, address in [(socket.AF_INET, ""), (socket.AF_INET6, "::")][:1 + socket.has_dualstack_ipv6()]:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen()
print("bound", flush=True)
"""


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def reserve(host: Host, count: int, token: str = TOKEN) -> tuple[int, ...]:
    host.link.send(ReservePorts(count, (), token))
    ports = host.wait_for(PortsReserved).ports
    assert len(ports) == count
    return ports


def probe(host: Host, *targets: tuple[str, int, str], timeout_s: float = 5.0) -> tuple[str | None, ...]:
    answered = len(host.all(Probed))
    host.link.send(Probe(answered, targets, timeout_s))
    host.until(lambda: len(host.all(Probed)) > answered, "the results")
    assert host.all(Probed)[-1].number == answered
    return host.all(Probed)[-1].results


def listener(sockets: contextlib.ExitStack, says: bytes = b"") -> int:
    """A server that takes no connection, though its kernel does; or says something to one, from another process."""
    server = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
    if says:
        code = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nc, _ = s.accept()\n" + (
            f"c.sendall({says!r})\nc.recv(1)"
        )
        process = subprocess.Popen([*PYTHON, code, str(server.fileno())], pass_fds=[server.fileno()])
        sockets.callback(process.wait, 10)
        sockets.callback(process.kill)
    port: int = server.getsockname()[1]
    return port


def a_port_without_a_listener(sockets: contextlib.ExitStack) -> int:
    held = sockets.enter_context(socket.socket())
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    return port


def test_every_target_has_its_result_in_order(open_host: Callable[..., Host], sockets: contextlib.ExitStack) -> None:
    prober, probed = open_host(), open_host()
    ports = reserve(probed, 2)
    mute, other, talks = listener(sockets), listener(sockets, b"SSH-2.0-OpenSSH_9.2\r\n"), listener(sockets)
    closed = a_port_without_a_listener(sockets)
    began = time.monotonic()
    results = probe(
        prober,
        ("127.0.0.1", ports[0], TOKEN),
        ("127.0.0.1", closed, TOKEN),
        ("127.0.0.1", ports[1], "another word"),
        ("127.0.0.1", other, TOKEN),
        ("127.0.0.1", mute, TOKEN),
        ("127.0.0.1", talks, ""),
        ("localhost", ports[1], TOKEN),
        ("127.0.0.1", closed, ""),
        ("127.0.0.1", 70000, ""),
        timeout_s=1.0,
    )
    took_s = time.monotonic() - began
    another = "another program answers there"
    assert results[:8] == (None, "refused", another, another, another, None, None, "refused")
    assert results[8] is not None
    assert took_s < 4.0, "all at once"


def test_a_connection_that_nobody_answers_times_out(host: Host, sockets: contextlib.ExitStack) -> None:
    """Loopback drops a call when the queue of those who wait is full."""
    server = sockets.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    port = server.getsockname()[1]
    for _ in range(3):
        waiting = sockets.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1", port))
    assert probe(host, ("127.0.0.1", port, ""), timeout_s=0.5) == ("timed out",)


def test_a_name_that_leads_nowhere_is_told(host: Host) -> None:
    (result,) = probe(host, ("no-such-host.invalid", 80, TOKEN), timeout_s=1.0)
    assert result is not None
    assert result not in ("refused", "another program answers there")


@pytest.mark.skipif(not HAS_IPV6, reason="there is no IPv6 here")
def test_both_families(open_host: Callable[..., Host]) -> None:
    prober, probed = open_host(), open_host()
    (port,) = reserve(probed, 1)
    assert probe(prober, ("127.0.0.1", port, TOKEN), ("::1", port, TOKEN)) == (None, None)


def test_a_host_probes_itself_by_its_own_addresses(host: Host) -> None:
    addresses = host.wait_for(Welcome).addresses
    (port,) = reserve(host, 1)
    assert probe(host, *((address, port, TOKEN) for address in addresses)) == (None,) * len(addresses)


def test_hundreds_at_once(open_host: Callable[..., Host]) -> None:
    prober, probed = open_host(), open_host()
    ports = reserve(probed, 20)
    targets = [("127.0.0.1", port, TOKEN) for port in ports] * 40
    began = time.monotonic()
    assert set(probe(prober, *targets)) == {None}
    assert time.monotonic() - began < 10.0


def test_the_agent_answers_meanwhile(host: Host, sockets: contextlib.ExitStack) -> None:
    host.link.send(Probe(0, (("127.0.0.1", listener(sockets), TOKEN),), 2.0))
    host.link.send(Ping(1))
    host.wait_for(Pong)
    assert not host.all(Probed)
    host.wait_for(Probed)


def test_the_first_task_can_bind_the_ports_at_once(open_host: Callable[..., Host]) -> None:
    """From another process, with the option that TensorFlow and torch set, after probes that have just been made."""
    prober, probed = open_host(), open_host()
    ports = reserve(probed, 3)
    for host in (prober, probed):
        assert set(probe(host, *(("127.0.0.1", port, TOKEN) for port in ports))) == {None}
    probed.start([sys.executable, "-S", "-c", SERVE, *map(str, ports)])
    assert probed.exited().exit_code == 0, probed.output()
    assert probed.output() == b"bound\n"
    assert set(probe(prober, *(("127.0.0.1", port, TOKEN) for port in ports))) == {"refused"}


def test_a_guest_that_stays_does_not_keep_the_port(host: Host, sockets: contextlib.ExitStack) -> None:
    (port,) = reserve(host, 1)
    guest = sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
    assert guest.recv(100) == TOKEN.encode() + b"\n"
    host.start([sys.executable, "-S", "-c", SERVE, str(port)])
    assert host.exited().exit_code == 0, host.output()
    with contextlib.suppress(ConnectionResetError):
        assert guest.recv(1) == b""


def test_a_guest_that_stays_is_sent_away(host: Host, sockets: contextlib.ExitStack) -> None:
    (port,) = reserve(host, 1)
    guest = sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
    assert guest.recv(100) == TOKEN.encode() + b"\n"
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert guest.recv(1) == b""
    assert 0.5 < time.monotonic() - began < 3.0
    host.start([sys.executable, "-S", "-c", SERVE, str(port)])
    assert host.exited().exit_code == 0, host.output()


def test_without_a_token_nobody_listens(host: Host) -> None:
    (port,) = reserve(host, 1, "")
    assert probe(host, ("127.0.0.1", port, "")) == ("refused",)


def test_addresses_are_those_by_which_others_reach_the_host(
    open_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.99 50000 ::ffff:198.51.100.7 22")
    addresses = open_host().welcome.addresses
    assert addresses[0] == "198.51.100.7"
    assert len(set(addresses)) == len(addresses)
    assert not [address for address in addresses if address.startswith(("127.", "169.254.", "fe80", "::1"))]
    if shutil.which("ip"):
        shown = subprocess.run(["ip", "-br", "address", "show", "up"], capture_output=True, text=True).stdout
        own = {word.partition("/")[0] for line in shown.splitlines() for word in line.split()[2:] if "/" in word}
        assert set(addresses[1:]) == {at for at in own if not at.startswith(("127.", "169.254.", "fe80", "::1"))}
    monkeypatch.setenv("SSH_CONNECTION", "127.0.0.1 50000 127.0.0.1 22")
    assert open_host().welcome.addresses == addresses[1:]
