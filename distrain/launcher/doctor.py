"""What would keep hosts from training together, and what to do about it. Pure.

How things are found out is `survey`'s, how they are shown the command line's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distrain import wire
from distrain.job.cluster import Host, computes, place
from distrain.job.spec import JobSpec
from distrain.launcher.hosts.reach import Reach

TITLES = {"tensorflow": "TensorFlow", "keras": "Keras", "python": "Python"}

KNOWN_GOOD = {"tensorflow": "2.21", "keras": "3.15"}
"""The releases that distrain's own training was tested with. It uses parts of both that are private."""
TPU_TENSORFLOW = "2.19"
"""The last release with kernels for TPUs, by Keras's word; it comes as a package of its own."""

CLOCK_TOLERANCE_S = 1.0
ENOUGH_BYTES = 1 << 30
"""Of free disk: what code and a few checkpoints want."""
LEAST_BYTES = 32 << 20
"""Of free disk: with less, a run fails before its first checkpoint."""

_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


@dataclass(frozen=True)
class Seen:
    """What is known of one host; None: it could not be asked.

    `python`: the tasks' interpreter. `trouble`: why the host cannot be used, a sentence that names it.
    `clock_ahead_s`: of this machine's. `ports_wanted`: what the job's tasks there need, or one to try.
    """

    host: Host
    python: str
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
        missing = next((package for package in ("tensorflow", "keras") if package not in seen.versions), None)
        if missing is not None:  # the former brings the latter
            yield Advice(
                "error",
                name,
                f"{TITLES[missing]} is not installed for {seen.python} there; install it with "
                f"`{seen.python} -m pip install {missing}`, or name another interpreter with --python",
            )
    if seen.examined.free_bytes < ENOUGH_BYTES:
        free = f"{seen.examined.free_bytes / (1 << 20):.0f} MB"
        level = "error" if seen.examined.free_bytes < LEAST_BYTES else "warning"
        yield Advice(level, name, f"only {free} are free on the disk for runs; free some, or set XDG_CACHE_HOME")
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
    tasks = Counter(placement.host.name for placement in place(job) if computes(job, placement.task))
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
    on_tpu = job.strategy.name == "TPU"
    if on_tpu:
        yield from _of_tpu(findings)
    for package, tested in KNOWN_GOOD.items():
        if on_tpu and package == "tensorflow":
            continue
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


def _of_tpu(findings: Findings) -> Iterator[Advice]:
    """Other releases have no kernels for it, which they say late and obscurely."""
    found = {seen.host.name: seen.versions["tensorflow"] for seen in findings.hosts if "tensorflow" in seen.versions}
    other = {name: version for name, version in found.items() if not version.startswith(f"{TPU_TENSORFLOW}.")}
    if other:
        yield Advice(
            "error",
            None,
            f"TensorFlow is {_grouped(other)}, and strategy TPU needs {TPU_TENSORFLOW}, the last that knows TPUs; "
            f"`python3 -m pip install 'tensorflow-tpu=={TPU_TENSORFLOW}.*'`",
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
