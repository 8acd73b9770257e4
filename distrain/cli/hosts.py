"""What `--workers` and its kin say, as values for the job's own keys, so that the job's rules judge them too."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from distrain.errors import Complaint, JobError, UsageError
from distrain.job.cluster import tasks_of
from distrain.job.file.hosts import HostFile, offer_node, split_slots
from distrain.job.file.kinds import Findings, printable, quoted
from distrain.job.file.source import Place, decode
from distrain.job.file.tree import Items, Node, Scalar, node_of
from distrain.job.load import Given
from distrain.job.spec import HostSpec, JobSpec

_MAX_BYTES = 1024 * 1024
_ATTRIBUTE = re.compile(r"(?P<name>[A-Za-z_-]+)\s*=\s*(?P<value>\S*)")


@dataclass(frozen=True)
class Asked:
    """The options of `host_options`, as they were typed."""

    workers: str | None = None
    ps: str | None = None
    chief: str | None = None
    evaluator: str | None = None
    data: str | None = None
    hostfile: Path | None = None
    python: str | None = None

    def given(self) -> Given:
        """What they say about the cluster, for `load_job`.

        Raises:
            UsageError: the hostfile cannot be read, or beside it the workers' hosts are named too.
        """
        asked = {
            ("--workers", "workers", "worker"): self.workers,
            ("--ps", "ps", "ps"): self.ps,
            ("--chief", "chief", "chief"): self.chief,
            ("--evaluator", "evaluators", "evaluator"): self.evaluator,
            ("--data", "data_workers", "data"): self.data,
        }
        wanted = {key: text for key, text in asked.items() if text is not None}
        if self.hostfile is not None and self.workers is not None and not _is_number(self.workers):
            raise UsageError("--workers names hosts, and --hostfile does too; keep one of the two")
        naming = [text for text in wanted.values() if not _is_number(text)]
        offers: list[Node] = []
        given: list[tuple[str, Node | None]] = []
        for (option, key, role), text in wanted.items():
            place = Place(option)
            # A bare number is of tasks on this machine, unless the hosts come from a file.
            texts = text.split(",")
            if _is_number(text):
                texts = [f"local:{int(text)}"] if naming and self.hostfile is None and int(text) else []
            offers += [offer_node(place, host.strip(), roles=node_of(place, [role])) for host in texts]
            given.append((f"cluster.{key}", node_of(place, int(text) if _is_number(text) else _slots(texts))))
        if self.hostfile is not None:
            if self.workers is None:
                given.append(("cluster.workers", None))
            offers += read_hostfile(self.hostfile)
        if offers:
            given.append(("cluster.hosts", Items(offers[0].place, tuple(offers))))
        return given

    def applied(self, job: JobSpec) -> JobSpec:
        """`job` with the interpreter on each of its hosts.

        Raises:
            JobError: it can be no path.
        """
        if self.python is None:
            return job
        findings = Findings()
        HostFile().read(Scalar(Place("--python"), self.python, plain=False), "the interpreter", findings)
        if findings.complaints:
            raise JobError(tuple(findings.complaints))
        hosts = job.cluster.hosts or (HostSpec("local", len(tasks_of(job))),)
        with_python = tuple(replace(host, python=self.python) for host in hosts)
        return replace(job, cluster=replace(job.cluster, hosts=with_python))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[0-9]{1,9}\s*", text) is not None


def _slots(hosts: list[str]) -> int:
    """How many tasks the hosts have room for; what is no number is complained about where the hosts are read."""
    slots = [split_slots(host.strip())[1] for host in hosts]
    return sum(int(text) if text is not None and _is_number(text) else 1 for text in slots)


def read_hostfile(path: Path) -> list[Node]:
    """The hosts in a hostfile, one a line: `host`, `host:2`, or `host slots=2` with whatever else Open MPI puts there;
    `#` begins a comment. A host on several lines has the slots of all of them.

    Raises:
        UsageError: the file cannot be read, is no text, or has a line of another form.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        raise UsageError(f"--hostfile: {reason}; check its name and its permissions") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"--hostfile: {path} is larger than {_MAX_BYTES // 1024} KiB; name a file of hosts")
    offers: list[Node] = []
    complaints: list[Complaint] = []
    for number, line in enumerate(decode(data, str(path)).splitlines(), start=1):
        host, _, rest = line.partition("#")[0].strip().replace("\t", " ").partition(" ")
        if host:
            offer = _offer(Place(str(path), number, line.index(host) + 1), host, rest)
            if isinstance(offer, Complaint):
                complaints.append(offer)
            else:
                offers.append(offer)
    if not offers and not complaints:
        complaints.append(Place(str(path)).complaint("the file names no hosts", "write one host a line"))
    if complaints:
        raise JobError(tuple(complaints))
    return offers


def _offer(place: Place, host: str, rest: str) -> Node | Complaint:
    """One line of a hostfile: the host, and what follows it."""
    found = {match["name"].lower().replace("-", "_"): match["value"] for match in _ATTRIBUTE.finditer(rest)}
    if odd := [*_ATTRIBUTE.sub("", rest).split(), *sorted(found.keys() - {"slots", "max_slots"})]:
        problem = f"{quoted(odd[0])} follows the host, and is no slots=N"
        return place.complaint(problem, "write one host a line, such as host1 slots=2")
    if "slots" not in found:
        return offer_node(place, host)
    if split_slots(host)[1] is not None:
        return place.complaint(f"{printable(host)} says its slots twice", "keep one of the two")
    return offer_node(place, host, slots=Scalar(place, found["slots"]))
