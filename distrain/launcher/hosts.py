"""All hosts of a run: opens their connections side by side, keeps contact, and has them find each other.

Owns the sessions and the sentences about several hosts together. What a host's loss means for the run is
`supervise`'s; this only says that it happened.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distrain import wire
from distrain.errors import DistrainError, HostError
from distrain.job.cluster import Placement, Task, chief_of, needs_address
from distrain.job.plan import HostFacts
from distrain.job.spec import JobSpec
from distrain.launcher.bundle import Bundle
from distrain.launcher.events import Event
from distrain.launcher.incoming import Incoming
from distrain.launcher.reach import PROBE_TIMEOUT_S, Offer, judge, targets
from distrain.launcher.session import Base, Session

OPENING_AT_ONCE = 32
"""How many connections are opened at the same time: each costs this machine a process and a handshake."""
FAREWELL_S = 5.0
_SUSPENDED_S = 5.0
_LOOPBACK = "127.0.0.1"

Heard = Event | tuple[str, wire.Message]


class Hosts:
    """The hosts that `placements` name. Messages that concern tasks are the caller's, as (host, message)."""

    def __init__(
        self,
        job: JobSpec,
        placements: Sequence[Placement],
        base: Base,
        bundle: Bundle,
        *,
        run: str,
        run_dir: Path,
        python: str,
    ) -> None:
        self._job = job
        self._placements = placements
        self._base = base
        self._bundle = bundle
        self._run = run
        self._run_dir = run_dir
        self._python = python
        hosts = {placement.host.name: placement.host for placement in placements}
        self._waiting = deque(hosts.values())
        self._alone = len(hosts) == 1
        self._chief_host = next(p.host.name for p in placements if p.task == chief_of([p.task for p in placements]))
        self._sessions: dict[str, Session] = {}
        self._offers: tuple[Offer, ...] = ()
        self._reached: dict[str, Sequence[str | None]] = {}
        self._tried: dict[str, deque[tuple[str, ...]]] = {}
        self._addresses: Mapping[str, str] = {}
        self._looked_at = time.monotonic()

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
                session.heard()
                match message:
                    case wire.Probed(results):
                        yield from self._probed(name, results)
                    case wire.FilePart():
                        yield from self._received(session, message)
                    case _ if hasattr(message, "task"):
                        yield name, message
                    case _:
                        yield from session.take(message)
        except HostError as error:
            yield self._lost(name, str(error))
        except wire.WireError as error:
            yield self._lost(name, f"{name}: what it sent could not be read: {error}")

    def _received(self, session: Session, part: wire.FilePart) -> Iterator[Event]:
        """A file that cannot be kept here costs the run that file, and nothing else."""
        name = session.host.name
        yield Event(time.time(), "receiving", host=name)
        try:
            yield from session.take(part)
        except HostError:
            raise
        except DistrainError as error:
            yield Event(time.time(), "note", host=name, data={"level": "error", "message": str(error)})

    def tick(self) -> Iterator[Heard]:
        """Open more connections, keep contact with those that are open, and notice the ones that are overdue."""
        now = time.monotonic()
        # Nobody has listened meanwhile: this process was stopped. What has arrived is still to be read.
        suspended = now - self._looked_at >= _SUSPENDED_S
        self._looked_at = now
        for name, session in list(self._sessions.items()):
            if suspended:
                session.heard()
            try:
                session.keep_contact()
            except HostError as error:
                yield self._lost(name, str(error))
            if session.link.deadline is not None and session.link.deadline <= now:
                yield from self.hear(name)
        while self._waiting and self._opening < OPENING_AT_ONCE:
            host = self._waiting.popleft()
            try:
                self._sessions[host.name] = self._open(host.name)
            except HostError as error:
                yield Event(time.time(), "host_lost", host=host.name, data={"message": str(error)})

    @property
    def _opening(self) -> int:
        return sum(session.welcome is None for session in self._sessions.values())

    def _open(self, name: str) -> Session:
        here = [placement for placement in self._placements if placement.host.name == name]
        host = here[0].host
        of_chief = name == self._chief_host
        checkpoints = self._job.checkpoint if self._job.program is None else None
        return Session(
            host,
            self._job,
            self._base,
            self._bundle,
            Incoming(
                self._run_dir,
                prefix="" if of_chief else f"from/{name}",
                keep=checkpoints.keep if checkpoints and of_chief else None,
            ),
            run=self._run,
            run_dir=str(self._run_dir),
            python=host.python or (self._python if host.transport == "local" else "python3"),
            addressed=tuple(p.task for p in here if needs_address(self._job, p.task)),
            token="" if self._alone else secrets.token_hex(16),
        )

    def _lost(self, name: str, message: str) -> Event:
        self._sessions.pop(name).close()
        return Event(time.time(), "host_lost", host=name, data={"message": message})

    # ---- finding each other

    def connect(self) -> None:
        """Have every host try the others. In the end `hear` gives `hosts_connected`, or `host_unreachable`."""
        self._offers = tuple(session.offer() for session in self._sessions.values())
        order = wire.Probe(tuple(target.to_wire() for target in targets(self._offers)), PROBE_TIMEOUT_S)
        self._reached = {}
        for session in self._sessions.values():
            session.link.send(order)

    def _probed(self, name: str, results: Sequence[str | None]) -> Iterator[Event]:
        if name in self._reached or not self._offers:
            yield from self._tried_tasks(name, results)
            return
        self._reached[name] = results
        if self._reached.keys() < self._sessions.keys():
            return
        reach = judge(self._offers, self._reached)
        self._addresses = reach.addresses
        now = time.time()
        first, *others = [*reach.complaints.items()] or [("", "")]
        for host, complaint in others:
            yield Event(now, "host_failed", host=host, data={"message": f"{host}: {complaint}"})
        if reach.complaints:
            yield Event(now, "host_unreachable", host=first[0], data={"message": f"{first[0]}: {first[1]}"})
        else:
            yield Event(now, "hosts_connected", data={"addresses": dict(self._addresses)})

    def try_tasks(self, names: Sequence[str]) -> None:
        """Try to connect to these tasks, from the chief's host where that is another. `hear` gives `tried` for each."""
        addresses = {str(task): address for task, address in self.addresses().items()}
        hosts = {str(placement.task): placement.host.name for placement in self._placements}
        by_prober: dict[str, list[str]] = {}
        for name in filter(addresses.__contains__, names):
            others = [self._chief_host, *self._sessions]
            prober = next((other for other in others if other != hosts[name] and other in self._sessions), hosts[name])
            by_prober.setdefault(prober, []).append(name)
        for prober, tasks in by_prober.items():
            if prober in self._sessions:
                wanted = [addresses[task].rpartition(":") for task in tasks]
                order = wire.Probe(tuple((host.strip("[]"), int(port), "") for host, _, port in wanted), 2.0)
                self._tried.setdefault(prober, deque()).append(tuple(tasks))
                self._sessions[prober].link.send(order)

    def _tried_tasks(self, prober: str, results: Sequence[str | None]) -> Iterator[Event]:
        addresses = {str(task): address for task, address in self.addresses().items()}
        for task, result in zip(self._tried[prober].popleft(), results, strict=True):
            port = addresses[task].rpartition(":")[2]
            reach = None if result is None else f"port {port} {result} from {prober}"
            yield Event(time.time(), "tried", task=task, data={"reach": reach})

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

    def versions(self) -> dict[str, Mapping[str, str]]:
        """Versions by host, of those that were asked."""
        return {name: session.versions for name, session in self._sessions.items() if session.versions}

    # ---- speaking

    def send(self, name: str, message: wire.Message) -> None:
        """To one host. What is sent to one that is lost goes nowhere."""
        if name in self._sessions:
            self._sessions[name].link.send(message)

    def send_all(self, message: wire.Message) -> None:
        for session in self._sessions.values():
            session.link.send(message)

    def close(self) -> None:
        """Lets every agent end, which leaves no process behind, and waits for it."""
        self._waiting.clear()
        self.send_all(wire.Goodbye())
        deadline = time.monotonic() + FAREWELL_S
        for session in self._sessions.values():
            session.close(timeout_s=max(0.1, deadline - time.monotonic()))
        self._sessions.clear()
