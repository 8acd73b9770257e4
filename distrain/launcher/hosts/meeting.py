"""How the hosts of a run find each other: who tries which addresses, and what is known of them then.

Owns the sentences about several hosts together. Which address is taken is `reach`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distrain import wire
from distrain.launcher.events import Event, now
from distrain.launcher.hosts.reach import PROBE_TIMEOUT_S, Offer, judge, targets
from distrain.launcher.hosts.session import Session

_TRY_TIMEOUT_S = 2.0
_COMPARED = {"tensorflow": "TensorFlow", "keras": "Keras"}


@dataclass(frozen=True)
class _Trial:
    """Tasks, each with its port, that `prober` was asked to connect to."""

    prober: str
    tasks: tuple[tuple[str, str], ...]


class Meeting:
    """Between the hosts of `sessions`, which come and go. `addresses`: of those that all of them reach."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self.addresses: Mapping[str, str] = {}
        self._sessions = sessions
        self._offers: tuple[Offer, ...] = ()
        self._asked: frozenset[str] = frozenset()
        self._reached: dict[str, Sequence[str | None]] = {}
        self._orders = itertools.count()
        self._number: int | None = None
        """Of the Probe by which the hosts find each other, until that is done."""
        self._trials: dict[int, _Trial] = {}

    def begin(self, names: Sequence[str]) -> None:
        """Have each of these hosts try those of them whose addresses are not known yet."""
        self._offers = tuple(self._sessions[name].offer() for name in names if name not in self.addresses)
        self._asked = frozenset(names)
        self._reached = {}
        self._number = next(self._orders)
        wanted = tuple(target.to_wire() for target in targets(self._offers))
        for name in names:
            self._sessions[name].link.send(wire.Probe(self._number, wanted, PROBE_TIMEOUT_S))

    def forget(self, name: str) -> None:
        """The host may have another address when it is back."""
        self.addresses = {host: address for host, address in self.addresses.items() if host != name}

    def try_tasks(self, addresses: Mapping[str, str], host_of: Mapping[str, str], chief_host: str) -> None:
        """Try to connect to tasks at these `host:port`, from the chief's host where that is another."""
        by_prober: dict[str, list[str]] = {}
        for task in addresses:
            others = [
                name for name in (chief_host, *self._sessions) if name in self._sessions and name != host_of[task]
            ]
            by_prober.setdefault((others or [host_of[task]])[0], []).append(task)
        for prober, tasks in by_prober.items():
            number = next(self._orders)
            split = [addresses[task].rpartition(":") for task in tasks]
            pairs = zip(tasks, split, strict=True)
            self._trials[number] = _Trial(prober, tuple((task, port) for task, (_, _, port) in pairs))
            wanted = tuple((host.strip("[]"), int(port), "") for host, _, port in split)
            if prober in self._sessions:
                self._sessions[prober].link.send(wire.Probe(number, wanted, _TRY_TIMEOUT_S))

    def probed(self, name: str, number: int, results: Sequence[str | None]) -> Iterator[Event]:
        """What a host has found: in the end `hosts_connected` or `host_unreachable`, or `tried` for each task."""
        if number in self._trials:
            yield from _tried(self._trials.pop(number), results)
        if number != self._number:
            return
        self._reached[name] = results
        if self._reached.keys() < self._asked:
            return
        self._number = None
        reach = judge(self._offers, self._reached)
        self.addresses = {**self.addresses, **reach.addresses}
        if not reach.complaints:
            yield from self._differences()
            yield Event(now(), "hosts_connected", data={"addresses": dict(self.addresses)})
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


def _tried(trial: _Trial, results: Sequence[str | None]) -> Iterator[Event]:
    for (task, port), result in zip(trial.tasks, results, strict=True):
        reach = None if result is None else f"port {port} {result} from {trial.prober}"
        yield Event(now(), "tried", task=task, data={"reach": reach})
