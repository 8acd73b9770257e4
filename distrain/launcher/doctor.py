"""What would keep hosts from training: looked at before anything is started.

Owns what is asked of the hosts (`survey`), and what to make of the answers (`advise`, which is pure). How findings are
shown is the command line's. Nothing stays on a host.
"""

from __future__ import annotations

import secrets
import select
import selectors
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata

from distrain import wire
from distrain.errors import HostError
from distrain.job.cluster import Host, needs_address, place
from distrain.job.spec import JobSpec
from distrain.launcher.bundle import open_bundle
from distrain.launcher.hosts import OPENING_AT_ONCE
from distrain.launcher.link import AgentLink
from distrain.launcher.reach import PROBE_TIMEOUT_S, Offer, Reach, judge, targets
from distrain.launcher.transports import open_transport

TITLES = {"tensorflow": "TensorFlow", "keras": "Keras", "python": "Python"}

KNOWN_GOOD = {"tensorflow": "2.21", "keras": "3.15"}
"""The releases that distrain's own training was tested with. It uses parts of both that are private."""

CLOCK_TOLERANCE_S = 1.0
ENOUGH_BYTES = 1 << 30
"""Of free disk: what code and a few checkpoints want."""

_ANSWER_TIMEOUT_S = 60.0
_CONTACT_TIMEOUT_S = 300.0
_FAREWELL_S = 5.0
_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


@dataclass(frozen=True)
class Seen:
    """What is known of one host. None: it could not be asked. `trouble`: why the host cannot be used, a sentence that
    names it. `clock_ahead_s`: of this machine's. `ports_wanted`: what the job's tasks there need, or one to try.
    """

    host: Host
    ports_wanted: int = 1
    trouble: str | None = None
    welcome: wire.Welcome | None = None
    examined: wire.Examined | None = None
    round_trip_s: float | None = None
    clock_ahead_s: float | None = None
    ports: tuple[int, ...] | None = None

    @property
    def versions(self) -> Mapping[str, str]:
        return self.examined.versions if self.examined else {}


@dataclass(frozen=True)
class Findings:
    """`here`: this machine's own versions. `reach`: None where there is only one host to reach."""

    hosts: tuple[Seen, ...]
    here: Mapping[str, str]
    reach: Reach | None = None


@dataclass(frozen=True)
class Advice:
    """`level`: "error", it keeps the hosts from training, or "warning". `host`: None where it is about several."""

    level: str
    host: str | None
    message: str


# ---- what to make of it


def advise(findings: Findings, job: JobSpec | None) -> tuple[Advice, ...]:
    """What is wrong, each with what to do about it; for any job where `job` is None."""
    advice: list[Advice] = []
    for seen in findings.hosts:
        advice += _of_host(seen, job)
    if findings.reach is not None:
        advice += (Advice("error", host, complaint) for host, complaint in findings.reach.complaints.items())
    advice += _of_versions(findings)
    if job is not None:
        advice += _of_job(findings, job)
    return tuple(advice)


def python_on(host: Host) -> str:
    """The interpreter that tasks get there."""
    return host.python or (sys.executable if host.transport == "local" else "python3")


def _of_host(seen: Seen, job: JobSpec | None) -> Iterator[Advice]:
    name = seen.host.name
    if seen.trouble is not None:
        yield Advice("error", name, seen.trouble)
        return
    assert seen.examined is not None
    assert seen.ports is not None
    if seen.examined.error is not None:
        yield Advice("error", name, seen.examined.error)
    elif job is None or job.program is None:
        for package in ("tensorflow", "keras"):
            if package not in seen.versions:
                python = python_on(seen.host)
                yield Advice(
                    "error",
                    name,
                    f"{TITLES[package]} is not installed for {python} there; install it with `{python} -m pip install "
                    f"{package}`, or name another interpreter with --python",
                )
    if seen.examined.free_bytes < ENOUGH_BYTES:
        free = f"{seen.examined.free_bytes / (1 << 20):.0f} MB"
        yield Advice("warning", name, f"only {free} are free on the disk for runs; free some, or set XDG_CACHE_HOME")
    if len(seen.ports) < seen.ports_wanted:
        yield Advice(
            "error",
            name,
            f"of the ports in cluster.ports {len(seen.ports)} are free, and {seen.ports_wanted} needed; name more, or "
            "leave cluster.ports out to take any free port",
        )
    if seen.clock_ahead_s is not None and abs(seen.clock_ahead_s) > CLOCK_TOLERANCE_S:
        way = "ahead of" if seen.clock_ahead_s > 0 else "behind"
        yield Advice(
            "warning",
            name,
            f"its clock is {abs(seen.clock_ahead_s):.1f} s {way} this machine's, and so are times in logs and "
            "certificates; set it, as with `timedatectl set-ntp true`",
        )


def _of_versions(findings: Findings) -> Iterator[Advice]:
    """Tasks of different releases do not understand each other for sure."""
    for package in ("tensorflow", "keras"):
        found = {seen.host.name: seen.versions[package] for seen in findings.hosts if package in seen.versions}
        title, here = TITLES[package], findings.here.get(package)
        if len(set(found.values())) > 1:
            common = Counter(found.values()).most_common(1)[0][0]
            yield Advice(
                "error",
                None,
                f"{title} is not the same everywhere: {_grouped(found)}; install one release on all, as with "
                f"`python3 -m pip install {package}=={common}`",
            )
        elif found and here is not None and here not in found.values():
            yield Advice(
                "warning",
                None,
                f"{title} is {next(iter(found.values()))} on the hosts and {here} on this machine, where what they "
                "trained may not load; install the same release",
            )
    pythons = {
        seen.host.name: ".".join(seen.versions["python"].split(".")[:2])
        for seen in findings.hosts
        if "python" in seen.versions
    }
    if len(set(pythons.values())) > 1:
        yield Advice(
            "warning",
            None,
            f"Python is not the same everywhere: {_grouped(pythons)}; name the same release for all with --python",
        )


def _of_job(findings: Findings, job: JobSpec) -> Iterator[Advice]:
    if job.program is None:
        yield from _of_training(findings, job)
    elif job.env.get(_LEGACY_KERAS) not in (None, "", "0", "False"):
        yield Advice(
            "warning",
            None,
            f"{_LEGACY_KERAS} is set: `tf.keras` is then the package tf-keras, to be installed on every host, while "
            "`import keras` stays Keras 3; use one of the two",
        )
    tasks = Counter(placement.host.name for placement in place(job) if placement.task.role != "ps")
    for seen in findings.hosts:
        cores = seen.welcome.cores if seen.welcome else None
        if cores is not None and tasks[seen.host.name] > cores:
            yield Advice(
                "warning",
                seen.host.name,
                f"{tasks[seen.host.name]} tasks would share its {cores} cores; give it fewer slots",
            )


def _of_training(findings: Findings, job: JobSpec) -> Iterator[Advice]:
    """Our own training with this strategy and what is installed."""
    for package, tested in KNOWN_GOOD.items():
        found = {seen.host.name: seen.versions[package] for seen in findings.hosts if package in seen.versions}
        other = {name: version for name, version in found.items() if not f"{version}.".startswith(f"{tested}.")}
        if not other:
            continue
        title, too_old = TITLES[package], package == "keras" and any(version[0] < "3" for version in other.values())
        if too_old:
            sentence = f"{title} is {_grouped(other)}, and distrain trains models of Keras 3"
        else:
            sentence = f"strategy {job.strategy.name} was tested with {title} {tested}, and there is {_grouped(other)}"
        yield Advice(
            "error" if too_old else "warning", None, f"{sentence}; `python3 -m pip install '{package}=={tested}.*'`"
        )
    if job.env.get(_LEGACY_KERAS) not in (None, "", "0", "False"):
        yield Advice(
            "warning",
            None,
            f"{_LEGACY_KERAS} is set in env, and distrain trains models of Keras 3: functions of yours must build them "
            "with `import keras`, not `tf.keras`; better leave it out",
        )
    gpus = {seen.host.name: seen.welcome.gpus for seen in findings.hosts if seen.welcome}
    if len(set(gpus.values())) > 1 and job.strategy.name == "MultiWorkerMirrored":
        shown = _grouped({name: str(count) for name, count in gpus.items()})
        yield Advice(
            "warning",
            None,
            f"the hosts have different numbers of GPUs ({shown}), and every step waits for the slowest worker; use "
            "hosts that are alike",
        )


def _grouped(values: Mapping[str, str]) -> str:
    """As in `2.21.0 on host1 and host2, 2.19.1 on host3`."""
    groups: dict[str, list[str]] = {}
    for host, value in values.items():
        groups.setdefault(value, []).append(host)
    return ", ".join(f"{value} on {_listed(hosts)}" for value, hosts in groups.items())


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# ---- looking


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


def survey(hosts: Sequence[Host], job: JobSpec | None) -> Findings:
    """Opens every host, side by side, and asks. What goes wrong with one is in its `trouble`."""
    wanted = _ports_wanted(job)
    visits = [_Visit(Seen(host, max(1, wanted[host.name])), secrets.token_hex(16)) for host in hosts]
    try:
        _ask_all(visits, job.cluster.ports if job else ())
        reach = _try_each_other(visits)
    finally:
        _leave(visits)
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
        visit.link = AgentLink(host.name, open_transport(host), open_bundle(), python=python_on(host))
    except HostError as error:
        _give_up(visit, str(error))


def _take(visit: _Visit, message: wire.Message, ports: tuple[int, ...]) -> None:
    assert visit.link is not None
    seen, now = visit.seen, time.time()
    visit.awaited.discard(type(message))
    match message:
        case wire.Welcome():
            visit.seen = replace(seen, welcome=message)
            visit.deadline = time.monotonic() + _ANSWER_TIMEOUT_S
            visit.pinged = time.monotonic()
            visit.link.send(wire.Ping(1))
            visit.awaited = {wire.Pong, wire.Examined, wire.PortsReserved}
            if seen.host.transport != "local":
                visit.link.send(wire.OpenRun("doctor", _CONTACT_TIMEOUT_S))
                visit.awaited.add(wire.RunOpened)
            visit.link.send(wire.Examine(python_on(seen.host)))
            visit.link.send(wire.ReservePorts(seen.ports_wanted, ports, visit.token))
        case wire.Pong():
            visit.seen = replace(seen, round_trip_s=time.monotonic() - visit.pinged)
        case wire.RunOpened(_, error) if error is not None:
            _give_up(visit, f"{seen.host.name}: {error}")
        case wire.Examined():
            # The answer has been under way for half of what a ping takes, about.
            ahead_s = message.time + (seen.round_trip_s or 0.0) / 2 - now
            visit.seen = replace(seen, examined=message, clock_ahead_s=ahead_s)
        case wire.PortsReserved(found):
            visit.seen = replace(seen, ports=found)
        case wire.Probed(results):
            visit.reached = results
        case wire.AgentEnding(reason):
            _give_up(visit, f"{seen.host.name}: {reason}")


def _try_each_other(visits: Sequence[_Visit]) -> Reach | None:
    """By which address the hosts reach each other. None: there are no two that could try."""
    there = [visit for visit in visits if visit.link is not None and visit.seen.ports]
    if len(visits) < 2 or not there:
        return None
    offers = [_offer(visit) for visit in there]
    order = wire.Probe(tuple(target.to_wire() for target in targets(offers)), PROBE_TIMEOUT_S)
    for visit in there:
        assert visit.link is not None
        visit.awaited = {wire.Probed}
        visit.deadline = time.monotonic() + PROBE_TIMEOUT_S + _ANSWER_TIMEOUT_S
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
        except wire.WireError as error:
            _give_up(visit, f"{name}: what it sent could not be read: {error}")
        if visit.link is not None and visit.awaited and time.monotonic() > visit.deadline:
            missing = " and ".join(sorted(message.__name__ for message in visit.awaited))
            _give_up(visit, f"{name}: no answer within {_ANSWER_TIMEOUT_S:g} s ({missing}); is it overloaded?")


def _give_up(visit: _Visit, trouble: str) -> None:
    visit.seen = replace(visit.seen, trouble=trouble)
    visit.awaited = set()
    if visit.link is not None:
        visit.link.close()
        visit.link = None


def _leave(visits: Sequence[_Visit]) -> None:
    """Every agent ends, and with it what it made there."""
    links = [visit.link for visit in visits if visit.link is not None]
    for link in links:
        link.send(wire.Goodbye())
        link.hang_up()
    deadline = time.monotonic() + _FAREWELL_S
    for link in links:
        link.close(timeout_s=max(0.1, deadline - time.monotonic()))
