"""All hosts of a run: opens their connections side by side, keeps contact, and has them find each other.

Owns the sessions and the sentences about several hosts together. What a host's loss means for the run is
`supervise`'s; this only says that it happened.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distrain import wire
from distrain.errors import DistrainError, HostError
from distrain.job.cluster import Placement, Task, chief_of, needs_address
from distrain.job.plan import HostFacts
from distrain.launcher.events import Event, now
from distrain.launcher.link import close_all
from distrain.launcher.outset import Outset
from distrain.launcher.reach import PROBE_TIMEOUT_S, Offer, judge, targets
from distrain.launcher.session import Session

OPENING_AT_ONCE = 32
"""How many connections are opened at the same time: each costs this machine a process and a handshake."""
FAREWELL_S = 5.0
_TRY_TIMEOUT_S = 2.0
_LOOPBACK = "127.0.0.1"
_COMPARED = {"tensorflow": "TensorFlow", "keras": "Keras"}

Heard = Event | wire.TaskMessage


@dataclass(frozen=True)
class _Trial:
    """Tasks, each with its port, that `prober` was asked to connect to."""

    prober: str
    tasks: tuple[tuple[str, str], ...]


class Hosts:
    """The hosts that `placements` name, of the run that `outset` begins."""

    def __init__(self, outset: Outset, placements: Sequence[Placement]) -> None:
        self._outset = outset
        self._placements = placements
        hosts = {placement.host.name: placement.host for placement in placements}
        self._waiting = deque(hosts.values())
        self._alone = len(hosts) == 1
        chief = chief_of([placement.task for placement in placements])
        self._host_of = {str(placement.task): placement.host.name for placement in placements}
        self._chief_host = self._host_of[str(chief)]
        self._sessions: dict[str, Session] = {}
        self._offers: tuple[Offer, ...] = ()
        self._reached: dict[str, Sequence[str | None]] = {}
        self._addresses: Mapping[str, str] = {}
        self._orders = itertools.count()
        self._meeting: int | None = None
        """The number of the Probe by which the hosts find each other, until that is done."""
        self._trials: dict[int, _Trial] = {}

    # ---- what the loop waits for

    def interest(self) -> dict[int, tuple[int, str]]:
        """The descriptors to watch, each with its mask and the host to `hear` then."""
        return {
            fd: (mask, name) for name, session in self._sessions.items() for fd, mask in session.link.interest().items()
        }

    def hear(self, name: str) -> Iterator[Heard]:
        """What has arrived from that host."""
        session = self._sessions.get(name)
        if session is None:
            return
        try:
            for message in session.link.receive():
                match message:
                    case wire.Probed(number, results):
                        yield from self._probed(name, number, results)
                    case wire.FilePart():
                        yield from self._received(session, message)
                    case wire.TaskMessage(task) if self._host_of.get(task) != name:
                        raise wire.WireError(f"it speaks of {task}, which is not there")
                    case wire.TaskMessage():
                        yield message
                    case _:
                        yield from session.take(message)
            session.send_more()
        except HostError as error:
            yield self._lost(name, str(error))
        except wire.WireError as error:
            yield self._lost(name, f"{name}: what it sent could not be read: {error}")

    def _received(self, session: Session, part: wire.FilePart) -> Iterator[Event]:
        """A file that cannot be kept here costs the run that file, and no other message."""
        name = session.host.name
        yield Event(now(), "receiving", host=name)
        try:
            yield from session.take(part)
        except HostError:
            raise
        except DistrainError as error:
            yield Event(now(), "file_lost", host=name, data={"path": part.artifact, "message": str(error)})

    def tick(self) -> Iterator[Heard]:
        """Open more connections, keep contact with those that are open, and notice the ones that are overdue."""
        for name, session in list(self._sessions.items()):
            if session.link.deadline is not None and session.link.deadline <= time.monotonic():
                yield from self.hear(name)
        for name, session in list(self._sessions.items()):
            try:
                session.keep_contact()
                session.send_more()
            except HostError as error:
                yield self._lost(name, str(error))
        while self._waiting and sum(session.welcome is None for session in self._sessions.values()) < OPENING_AT_ONCE:
            host = self._waiting.popleft()
            try:
                self._sessions[host.name] = self._open(host.name)
            except HostError as error:
                yield Event(now(), "host_lost", host=host.name, data={"message": str(error)})

    def _open(self, name: str) -> Session:
        here = [placement for placement in self._placements if placement.host.name == name]
        return Session(
            here[0].host,
            self._outset,
            of_chief=name == self._chief_host,
            addressed=tuple(p.task for p in here if needs_address(self._outset.job, p.task)),
            token="" if self._alone else secrets.token_hex(16),
        )

    def _lost(self, name: str, message: str) -> Event:
        self._sessions.pop(name).close()
        return Event(now(), "host_lost", host=name, data={"message": message})

    # ---- finding each other

    def connect(self) -> None:
        """Have every host try the others. In the end `hear` gives `hosts_connected`, or `host_unreachable`."""
        self._offers = tuple(session.offer() for session in self._sessions.values())
        self._reached = {}
        self._meeting = next(self._orders)
        wanted = tuple(target.to_wire() for target in targets(self._offers))
        self.send_all(wire.Probe(self._meeting, wanted, PROBE_TIMEOUT_S))

    def _probed(self, name: str, number: int, results: Sequence[str | None]) -> Iterator[Event]:
        if number in self._trials:
            yield from self._tried(self._trials.pop(number), results)
        if number != self._meeting:
            return
        self._reached[name] = results
        if self._reached.keys() < {offer.host for offer in self._offers}:
            return
        self._meeting = None
        reach = judge(self._offers, self._reached)
        self._addresses = reach.addresses
        if not reach.complaints:
            yield from self._differences()
            yield Event(now(), "hosts_connected", data={"addresses": dict(self._addresses)})
            return
        told = [(host, {"message": f"{host}: {complaint}"}) for host, complaint in reach.complaints.items()]
        for host, data in told[1:]:
            yield Event(now(), "host_failed", host=host, data=data)
        yield Event(now(), "host_unreachable", host=told[0][0], data=told[0][1])

    def _differences(self) -> Iterator[Event]:
        """Hosts whose TensorFlow or Keras is not that of the others train together, or fail in odd ways."""
        for package, title in _COMPARED.items():
            there = {
                name: session.versions[package]
                for name, session in self._sessions.items()
                if package in session.versions
            }
            if len(set(there.values())) > 1:
                listed = ", ".join(f"{version} on {name}" for name, version in there.items())
                message = f"{title} differs between the hosts: {listed}; install one version everywhere"
                yield Event(now(), "note", data={"level": "warning", "message": message})

    def try_tasks(self, names: Sequence[str]) -> None:
        """Try to connect to these tasks, from the chief's host where that is another. `hear` gives `tried` for each."""
        addresses = {str(task): address for task, address in self.addresses().items()}
        by_prober: dict[str, list[str]] = {}
        for name in filter(addresses.__contains__, names):
            candidates = [self._chief_host, *self._sessions, self._host_of[name]]
            others = [other for other in candidates if other in self._sessions and other != self._host_of[name]]
            by_prober.setdefault((others or [self._host_of[name]])[0], []).append(name)
        for prober, tasks in by_prober.items():
            number = next(self._orders)
            split = [addresses[task].rpartition(":") for task in tasks]
            pairs = zip(tasks, split, strict=True)
            self._trials[number] = _Trial(prober, tuple((task, port) for task, (_, _, port) in pairs))
            wanted = tuple((host.strip("[]"), int(port), "") for host, _, port in split)
            self.send(prober, wire.Probe(number, wanted, _TRY_TIMEOUT_S))

    def _tried(self, trial: _Trial, results: Sequence[str | None]) -> Iterator[Event]:
        for (task, port), result in zip(trial.tasks, results, strict=True):
            reach = None if result is None else f"port {port} {result} from {trial.prober}"
            yield Event(now(), "tried", task=task, data={"reach": reach})

    # ---- what the plan must know

    def addresses(self) -> dict[Task, str]:
        """`host:port` of every task that others connect to."""
        found = {}
        for name, session in self._sessions.items():
            address = _LOOPBACK if self._alone else self._addresses[name]
            shown = f"[{address}]" if ":" in address else address
            for task, port in zip(session.addressed, session.ports, strict=True):
                found[task] = f"{shown}:{port}"
        return found

    def facts(self) -> dict[str, HostFacts]:
        return {name: session.facts() for name, session in self._sessions.items()}

    # ---- speaking

    def send(self, name: str, message: wire.Message) -> None:
        """To one host. What is sent to one that is lost goes nowhere."""
        if name in self._sessions:
            self._sessions[name].link.send(message)

    def send_all(self, message: wire.Message) -> None:
        for session in self._sessions.values():
            session.link.send(message)

    def close(self) -> Iterator[Event]:
        """Lets every agent end, which leaves no process behind, and waits for it. Gives a note for each that has not
        confirmed that.
        """
        self._waiting.clear()
        unheard = close_all([session.link for session in self._sessions.values()], FAREWELL_S)
        for session in self._sessions.values():
            session.forget_halves()
        self._sessions.clear()
        timeout_s = self._outset.job.cluster.contact_timeout_s
        for link in unheard:
            message = (
                "it did not confirm that everything of the run has ended there; what still runs ends by itself, "
                f"at the latest {timeout_s:g} s after it has last heard of this machine"
            )
            yield Event(now(), "note", host=link.host, data={"level": "warning", "message": message})
