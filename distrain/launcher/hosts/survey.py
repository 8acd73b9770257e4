"""Asks hosts, side by side, what a run would need to know of them, and has them try each other. Nothing stays there.

Owns the order of the questions and how long answers may take. What they mean is `doctor`'s.
"""

from __future__ import annotations

import secrets
import select
import selectors
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata

from distrain import wire
from distrain.errors import HostError
from distrain.job.cluster import Host, needs_address, place
from distrain.job.spec import JobSpec
from distrain.launcher.doctor import Findings, Seen
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.hosts.hosts import FAREWELL_S, OPENING_AT_ONCE
from distrain.launcher.hosts.link import AgentLink, close_all
from distrain.launcher.hosts.reach import PROBE_TIMEOUT_S, Offer, Reach, judge, targets
from distrain.launcher.transports import open_transport, python_on

_ANSWER_TIMEOUT_S = 60.0
_CONTACT_TIMEOUT_S = 300.0


@dataclass
class _Visit:
    """One host while it is asked. `awaited`: what is still to be answered, by `deadline` (monotonic)."""

    seen: Seen
    token: str
    link: AgentLink | None = None
    awaited: set[type[wire.Message]] = field(default_factory=set)
    deadline: float = 0.0
    pinged: float = 0.0
    reached: tuple[str | None, ...] | None = None

    @property
    def is_waiting(self) -> bool:
        return self.link is not None and (self.link.welcome is None or bool(self.awaited))

    def expect(self, *answers: type[wire.Message], within_s: float = _ANSWER_TIMEOUT_S) -> None:
        self.awaited = set(answers)
        self.deadline = time.monotonic() + within_s


def survey(hosts: Sequence[Host], job: JobSpec | None) -> Findings:
    """Opens every host, side by side, and asks. What goes wrong with one is in its `trouble`."""
    wanted = _ports_wanted(job)
    visits = [_Visit(Seen(host, python_on(host), max(1, wanted[host.name])), secrets.token_hex(16)) for host in hosts]
    try:
        _ask_all(visits, job.cluster.ports if job else ())
        reach = _try_each_other(visits)
    finally:
        close_all([visit.link for visit in visits if visit.link is not None], FAREWELL_S)
    return Findings(tuple(visit.seen for visit in visits), _versions_here(), reach)


def _ports_wanted(job: JobSpec | None) -> Counter[str]:
    return Counter(p.host.name for p in place(job) if needs_address(job, p.task)) if job else Counter()


def _versions_here() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("tensorflow", "keras"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _ask_all(visits: Sequence[_Visit], ports: tuple[int, ...]) -> None:
    waiting = deque(visits)
    opening: list[_Visit] = []
    while waiting or any(visit.is_waiting for visit in visits):
        opening = [visit for visit in opening if visit.link is not None and visit.link.welcome is None]
        while waiting and len(opening) < OPENING_AT_ONCE:
            opening.append(waiting.popleft())
            _open(opening[-1])
        for visit, message in _hear(visits):
            _take(visit, message, ports)


def _open(visit: _Visit) -> None:
    host = visit.seen.host
    try:
        visit.link = AgentLink(host.name, open_transport(host), open_bundle(), python=visit.seen.python)
    except HostError as error:
        _give_up(visit, str(error))


def _take(visit: _Visit, message: wire.Message, ports: tuple[int, ...]) -> None:
    assert visit.link is not None
    seen, now = visit.seen, time.time()
    visit.awaited.discard(type(message))
    match message:
        case wire.Welcome():
            visit.seen = replace(seen, welcome=message)
            if seen.host.transport == "local":
                _question(visit, ports)
            else:
                visit.expect(wire.RunOpened)
                visit.link.send(wire.OpenRun("doctor", _CONTACT_TIMEOUT_S))
        case wire.Pong():
            visit.seen = replace(seen, round_trip_s=time.monotonic() - visit.pinged)
        case wire.RunOpened(_, error) if error is not None:
            _give_up(visit, f"{seen.host.name}: {error}")
        case wire.RunOpened():
            _question(visit, ports)
        case wire.Examined():
            # The answer has been under way for half of what a ping takes, about.
            ahead_s = message.time + (seen.round_trip_s or 0.0) / 2 - now
            visit.seen = replace(seen, examined=message, clock_ahead_s=ahead_s)
        case wire.PortsReserved(found):
            visit.seen = replace(seen, ports=found)
        case wire.Probed(results=results):
            visit.reached = results
        case wire.AgentEnding(reason):
            _give_up(visit, f"{seen.host.name}: {reason}")


def _question(visit: _Visit, ports: tuple[int, ...]) -> None:
    """Ask all that is asked of one host alone."""
    assert visit.link is not None
    visit.expect(wire.Pong, wire.Examined, wire.PortsReserved)
    visit.pinged = time.monotonic()
    visit.link.send(wire.Ping(1))
    visit.link.send(wire.Examine(visit.seen.python))
    visit.link.send(wire.ReservePorts(visit.seen.ports_wanted, ports, visit.token))


def _try_each_other(visits: Sequence[_Visit]) -> Reach | None:
    """By which address the hosts reach each other. None: there are no two that could try."""
    there = [visit for visit in visits if visit.link is not None and visit.seen.ports]
    if len(visits) < 2 or not there:
        return None
    offers = [_offer(visit) for visit in there]
    order = wire.Probe(0, tuple(target.to_wire() for target in targets(offers)), PROBE_TIMEOUT_S)
    for visit in there:
        assert visit.link is not None
        visit.expect(wire.Probed, within_s=PROBE_TIMEOUT_S + _ANSWER_TIMEOUT_S)
        visit.link.send(order)
    while any(visit.is_waiting for visit in there):
        for visit, message in _hear(there):
            _take(visit, message, ())
    return judge(offers, {visit.seen.host.name: visit.reached for visit in there if visit.reached is not None})


def _offer(visit: _Visit) -> Offer:
    assert visit.seen.welcome is not None
    host = visit.seen.host
    given = (host.address,) if host.address is not None else ()
    return Offer(
        host.name, given or visit.seen.welcome.addresses, visit.seen.ports or (), visit.token, given=bool(given)
    )


def _hear(visits: Sequence[_Visit]) -> Iterator[tuple[_Visit, wire.Message]]:
    """What has arrived, after waiting a moment for something to."""
    poll = select.poll()
    for visit in visits:
        for fd, mask in visit.link.interest().items() if visit.link is not None else ():
            poll.register(fd, select.POLLOUT if mask == selectors.EVENT_WRITE else select.POLLIN)
    poll.poll(100)
    for visit in visits:
        if visit.link is None:
            continue
        name = visit.seen.host.name
        try:
            for message in visit.link.receive():
                if visit.link is not None:
                    yield visit, message
        except HostError as error:
            _give_up(visit, str(error))
        if visit.link is not None and visit.awaited and time.monotonic() > visit.deadline:
            missing = " and ".join(sorted(message.__name__ for message in visit.awaited))
            _give_up(visit, f"{name}: no answer within {_ANSWER_TIMEOUT_S:g} s ({missing}); is it overloaded?")


def _give_up(visit: _Visit, trouble: str) -> None:
    visit.seen = replace(visit.seen, trouble=trouble)
    visit.awaited = set()
    if visit.link is not None:
        visit.link.close()
        visit.link = None
