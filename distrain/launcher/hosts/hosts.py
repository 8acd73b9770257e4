"""All hosts of a run: opens their connections side by side, keeps contact, and gives them their tasks.

Owns the sessions. How the hosts find each other is `meeting`'s. What a host's loss means for the run is
`supervise`'s; this only says that it happened.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from distrain import wire
from distrain.errors import DistrainError, HostError
from distrain.job.cluster import Placement, Task, chief_of, needs_address
from distrain.job.plan import HostFacts
from distrain.launcher.chaos import Injury, Kind
from distrain.launcher.events import Event, now
from distrain.launcher.hosts.link import close_all
from distrain.launcher.hosts.meeting import Meeting
from distrain.launcher.hosts.session import Session
from distrain.launcher.outset import Outset
from distrain.launcher.runs.checkpoints import FOLDER

OPENING_AT_ONCE = 32
"""How many connections are opened at the same time: each costs this machine a process and a handshake."""
FAREWELL_S = 5.0
_LOOPBACK = "127.0.0.1"

Heard = Event | wire.TaskMessage


class Hosts:
    """The hosts that `placements` name, of the run that `outset` begins."""

    def __init__(self, outset: Outset, placements: Sequence[Placement]) -> None:
        self._outset = outset
        self._sessions: dict[str, Session] = {}
        self._known = {placement.host.name: placement.host for placement in placements}
        self._waiting = deque(self._known)
        self._lay_out(placements)
        self._meeting = Meeting(self._sessions)
        self._receiving: set[str] = set()
        """Hosts that lack the checkpoint to go on from, which is on its way to them."""
        self._cut_until: dict[str, float] = {}

    @property
    def _alone(self) -> bool:
        """Whether one host has all the tasks, so that no other need reach it."""
        return len(set(self._host_of.values())) == 1

    def _lay_out(self, placements: Sequence[Placement]) -> None:
        self._placements = placements
        chief = chief_of([placement.task for placement in placements])
        self._host_of = {str(placement.task): placement.host.name for placement in placements}
        self._chief_host = self._host_of[str(chief)]

    # ---- what the loop waits for

    def interest(self) -> dict[int, tuple[int, tuple[str, int]]]:
        """The descriptors to watch, each with its mask, and with the connection that it is of: the host to `hear`
        then, and the process.
        """
        return {
            fd: (mask, (name, session.link.pid))
            for name, session in self._sessions.items()
            for fd, mask in session.link.interest().items()
        }

    def hear(self, name: str) -> Iterator[Heard]:
        """What has arrived from that host."""
        session = self._sessions.get(name)
        if session is None:
            return
        try:
            for message in session.link.receive():
                if self._sessions.get(name) is not session:
                    return  # what was heard before made somebody close it
                match message:
                    case wire.Probed(number, results):
                        yield from self._meeting.probed(name, number, results)
                    case wire.FilePart():
                        yield from self._received(session, message)
                    case wire.TaskMessage(task) if self._host_of.get(task) != name:
                        raise wire.WireError(f"it speaks of {task}, which is not there")
                    case wire.TaskEvent(kind="checkpoint", data={"kept": list(names)}):
                        session.keep_only(map(str, names))
                        yield message
                    case wire.TaskEvent(kind="failure", data={"why": "checkpoint", "path": str(path)}):
                        session.forget(PurePosixPath(path).name)
                        yield message
                    case wire.TaskMessage():
                        yield message
                    case wire.FileKept():
                        yield from session.take(message)
                        self._receiving.discard(name)
                        yield self._sending()
                    case wire.Pong(0) if name in self._receiving:
                        yield self._sending()
                    case _:
                        yield from session.take(message)
            if self._sessions.get(name) is session:
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
            if self._sessions.get(name) is not session:
                continue
            try:
                session.keep_contact()
                session.send_more()
            except HostError as error:
                yield self._lost(name, str(error))
        while self._waiting and sum(session.welcome is None for session in self._sessions.values()) < OPENING_AT_ONCE:
            name = self._waiting.popleft()
            try:
                self._sessions[name] = self._open(name)
            except HostError as error:
                yield Event(now(), "host_lost", host=name, data={"message": str(error), "age_s": 0.0})

    def _open(self, name: str) -> Session:
        session = Session(
            self._known[name],
            self._outset,
            of_chief=name == self._chief_host,
            addressed=self._addressed(name),
            token="" if len(self._known) == 1 else secrets.token_hex(16),
        )
        session.link.silence(self._cut_until.get(name, 0.0))
        return session

    def _lost(self, name: str, message: str) -> Event:
        session = self._sessions.get(name)
        age_s = 0.0 if session is None else time.monotonic() - session.link.heard_at
        self._forget(name)
        return Event(now(), "host_lost", host=name, data={"message": message, "age_s": round(age_s, 3)})

    def _forget(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()
        self._meeting.forget(name)
        self._receiving.discard(name)

    # ---- another attempt

    def open(self, names: Sequence[str]) -> None:
        """Open these anew, in place of what there is of a connection to them. In the end `hear` gives `host_prepared`
        or `host_lost` for each.
        """
        self.drop(names)
        self._waiting.extend(names)

    def drop(self, names: Sequence[str]) -> None:
        """Close the connection to these, if there is one: their agents end what is left."""
        for name in names:
            self._forget(name)
            if name in self._waiting:
                self._waiting.remove(name)

    def lay_out(self, placements: Sequence[Placement]) -> frozenset[str]:
        """Give the hosts other tasks. Returns the names of those that must be prepared once more for theirs."""
        self._lay_out(placements)
        return frozenset(
            name
            for name, session in self._sessions.items()
            if session.welcome is not None and session.assign(self._addressed(name), of_chief=name == self._chief_host)
        )

    def _addressed(self, name: str) -> tuple[Task, ...]:
        here = [placement.task for placement in self._placements if placement.host.name == name]
        return tuple(task for task in here if needs_address(self._outset.job, task))

    def send_checkpoint(self, path: Path) -> Iterator[Event]:
        """Have the checkpoint at `path` on every host; `checkpoint_sent` tells when it is, here or in `hear`, and
        `checkpoint_sending` that more of it has arrived.
        """
        lacking = [name for name in self._hosts_with_tasks() if self._sessions[name].lacks(path)]
        self._receiving = set(lacking)
        lost = []
        for name in lacking:
            try:
                self._sessions[name].bring(path, FOLDER)
            except HostError as error:
                lost.append(self._lost(name, str(error)))
        yield from lost or (self._sending(),)

    def _sending(self) -> Event:
        if not self._receiving:
            return Event(now(), "checkpoint_sent")
        return Event(now(), "checkpoint_sending", data={"hosts": sorted(self._receiving)})

    def _hosts_with_tasks(self) -> list[str]:
        return [name for name in dict.fromkeys(self._host_of.values()) if name in self._sessions]

    # ---- finding each other

    def connect(self) -> None:
        """Have every host try those whose addresses are not known yet. In the end `hear` gives `hosts_connected`, or
        `host_unreachable`.
        """
        self._meeting.begin(self._hosts_with_tasks())

    def try_tasks(self, names: Sequence[str]) -> None:
        """Try to connect to these tasks, from the chief's host where that is another. `hear` gives `tried` for each."""
        addresses = {str(task): address for task, address in self.addresses().items() if str(task) in names}
        self._meeting.try_tasks(addresses, self._host_of, self._chief_host)

    # ---- injuries

    def harm(self, injury: Injury) -> None:
        """Do it, which makes `hear` give `harmed`; but for a cut, which is done here."""
        session = self._sessions.get(injury.host)
        if injury.kind is Kind.CUT:
            until = self._cut_until[injury.host] = time.monotonic() + injury.seconds
            if session is not None:
                session.link.silence(until)
        elif session is not None:
            session.link.send(injury.order(str(self._outset.rundir.path) if session.is_local else None))

    # ---- what the plan must know

    def addresses(self) -> dict[Task, str]:
        """`host:port` of every task that others connect to."""
        found = {}
        for name in self._hosts_with_tasks():
            session = self._sessions[name]
            address = _LOOPBACK if self._alone else self._meeting.addresses[name]
            shown = f"[{address}]" if ":" in address else address
            for task, port in zip(session.addressed, session.ports, strict=False):
                found[task] = f"{shown}:{port}"
        return found

    def facts(self) -> dict[str, HostFacts]:
        return {name: self._sessions[name].facts() for name in self._hosts_with_tasks()}

    # ---- speaking

    def send(self, name: str, message: wire.Message) -> None:
        """To one host. What is sent to one that is lost goes nowhere."""
        if name in self._sessions:
            self._sessions[name].link.send(message)

    def ask_for_stacks(self, names: Sequence[str]) -> None:
        """Have these tasks tell where they are, each on its host."""
        for host in self._hosts_with_tasks():
            if here := tuple(name for name in names if self._host_of.get(name) == host):
                self.send(host, wire.DumpStacks(here))

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
