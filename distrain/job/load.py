"""A job file and its `--set` options as a JobSpec, or every complaint about them at once.

Owns the order of things: read the YAML, lay the options over it, read each key, judge the combinations. What it reads
with is in `file/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distrain.errors import JobError
from distrain.job.check import rules_for
from distrain.job.cluster import numbers_offered, room_for_workers
from distrain.job.file.kinds import Findings, printable, quoted, shown
from distrain.job.file.schema import JOB, default_list, homes
from distrain.job.file.source import Place, decode, read_source
from distrain.job.file.tree import Entry, Items, Node, Scalar, Table, node_of, parse
from distrain.job.spec import NOT_FOR_PROGRAMS, JobSpec, ProgramSpec

Given = Sequence[tuple[str, Node | None]]
"""What options of the command line say: for the key at a dotted path, the value, whose place names the option; None:
what the file says there does not count.
"""


def load_job(path: Path, sets: Sequence[str] = (), name: str | None = None, given: Given = ()) -> JobSpec:
    """The job in the file at `path`, with `given` and then `--set` options (`training.epochs=1`) laid over it, in their
    order.

    `name` is the job's name whatever the file says; a file that gives none is named after itself.

    Raises:
        JobError: something is wrong with the file, its job or the options.
    """
    return parse_job(read_source(path), str(path), sets, name, given)


def parse_job(
    source: str | bytes, file: str, sets: Sequence[str] = (), name: str | None = None, given: Given = ()
) -> JobSpec:
    """The job in `source`; `file` is what complaints call it.

    Raises:
        JobError: something is wrong with the job or the options.
    """
    findings = Findings(homes())
    text = decode(source.encode(errors="surrogatepass") if isinstance(source, str) else source, file)
    tree = parse(text, file, findings.complaints)
    if tree is None:
        remedy = "a job begins with, for example, model: cnn"
        raise JobError((Place(file).complaint("the file is empty, or holds comments only", remedy),))
    if not isinstance(tree, Table):
        remedy = "write keys and values, such as model: cnn"
        raise JobError((tree.place.complaint(f"a job is a mapping, and this is {shown(tree)}", remedy),))
    return _job(tree, findings, sets, name, given)


def program_job(argv: Sequence[str], sets: Sequence[str] = (), name: str | None = None, given: Given = ()) -> JobSpec:
    """The job that runs a program of the user's, once per task. It is named after the program.

    Raises:
        JobError: something is wrong with the program's words or the options.
    """
    place = Place(printable(argv[0]))
    tree = Table(place, {"program": Entry(place, node_of(place, list(argv)))})
    return _job(tree, Findings(homes()), sets, name, given)


def _job(tree: Table, findings: Findings, sets: Sequence[str], name: str | None, given: Given) -> JobSpec:
    file = tree.place.file
    laid: Node = JOB.expand(tree)
    hosts = _find(laid, "cluster.hosts")
    for path, node in given:
        keys = path.split(".")
        if node is None:
            laid = _without(laid, keys)
            continue
        laid = JOB.expand(_with_value(laid, keys, node, node.place, findings))
        if path == "cluster.hosts" and isinstance(new := _find(laid, path), Items):
            laid = _with_value(laid, keys, _settings_kept(new, hosts), node.place, findings)
    for option in sets:
        laid = JOB.expand(_with_option(laid, option, findings))
    if name is not None:
        place = Place("--name")
        laid = _with_value(laid, ["name"], Scalar(place, name, plain=False), place, findings)
    job = _read(laid, file, findings)
    if findings.complaints:
        raise JobError(tuple(findings.complaints))
    return job


def _without(node: Node, keys: Sequence[str]) -> Node:
    """`node` without the key at the path `keys` under it."""
    entry = node.entries.get(keys[0]) if isinstance(node, Table) else None
    if not isinstance(node, Table) or entry is None:
        return node
    others = {key: other for key, other in node.entries.items() if key != keys[0]}
    if len(keys) == 1:
        return replace(node, entries=others)
    return replace(node, entries={**node.entries, keys[0]: replace(entry, node=_without(entry.node, keys[1:]))})


def _settings_kept(new: Items, old: Node | None) -> Items:
    """The hosts that an option names, each with what the file says of how it is reached."""
    known: dict[str, dict[str, Entry]] = {}
    for offer in old.nodes if isinstance(old, Items) else ():
        host = _find(offer, "host")
        if isinstance(offer, Table) and isinstance(host, Scalar):
            settings = {key: entry for key, entry in offer.entries.items() if key not in ("slots", "roles")}
            known[host.text] = settings | known.get(host.text, {})
    nodes = [
        replace(offer, entries=known.get(host.text, {}) | dict(offer.entries))
        if isinstance(offer, Table) and isinstance(host := _find(offer, "host"), Scalar)
        else offer
        for offer in new.nodes
    ]
    return replace(new, nodes=tuple(nodes))


def _read(tree: Node, file: str, findings: Findings) -> JobSpec:
    values = JOB.values(tree, "", findings)
    if _given(tree, "program"):
        # One that cannot be read is a program all the same.
        values.setdefault("program", ProgramSpec(("unreadable",)))
        # It may not know how to go on from what it left, unless its user says so.
        values.setdefault("restart", None)
    job = _with_numbers(JobSpec(**{"name": _name_after(file), **values}), tree)
    if job.program is not None:
        for path, reason in NOT_FOR_PROGRAMS.items():
            if _given(tree, path):
                remedy = f"remove {path}, or remove program to have distrain train"
                findings.add(_place(tree, path), path, f"{path} is given beside a program, and {reason}", remedy)
    for rule in rules_for(job):
        if any(findings.concern(path) for path in rule.paths):
            continue
        sentence = rule.judge(job)
        if sentence is not None:
            problem, remedy, *exactly = sentence
            path = next((path for path in (*exactly, *rule.paths) if _given(tree, path)), "")
            findings.complaints.append(_place(tree, path).complaint(printable(problem), remedy))
    return job


def _with_numbers(job: JobSpec, tree: Node) -> JobSpec:
    """`job` with the numbers of tasks that follow from its strategy and its hosts where it gives none."""
    numbers: dict[str, Any] = {
        key: number for key, number in numbers_offered(job).items() if not _given(tree, f"cluster.{key}")
    }
    job = replace(job, cluster=replace(job.cluster, **numbers))
    if not job.cluster.hosts or _given(tree, "cluster.workers"):
        return job
    return replace(job, cluster=replace(job.cluster, workers=max(1, room_for_workers(job))))


def _name_after(file: str) -> str:
    """A job's name out of its file's: whatever a directory's name cannot hold becomes a dash."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).stem).strip("-._")
    return stem[:64] or "job"


def _find(tree: Node, path: str) -> Node | None:
    node: Node | None = tree
    for part in path.split("."):
        if isinstance(node, Items):
            node = node.nodes[int(part)] if part.isdecimal() and int(part) < len(node.nodes) else None
        else:
            entry = node.entries.get(part) if isinstance(node, Table) else None
            node = entry.node if entry else None
    return node


def _given(tree: Node, path: str) -> bool:
    node = _find(tree, path)
    return node is not None and not (isinstance(node, Scalar) and node.value is None)


def _place(tree: Node, path: str) -> Place:
    node = _find(tree, path) if path else None
    return node.place if node else Place(tree.place.file)


def _with_option(tree: Node, option: str, findings: Findings) -> Node:
    """`tree` with one `--set` laid over it."""
    path, equals, text = option.partition("=")
    place = Place(f"--set {printable(path)}")
    keys = path.split(".")
    if not equals or not all(key.strip() for key in keys):
        findings.add(place, "", "an option has the form key=value", "write for example --set training.epochs=1")
        return tree
    try:
        clean = decode(text.encode(errors="surrogatepass"), place.file)
        if keys[0] == "env" and len(keys) == 2:  # what a shell has quoted with care is no YAML
            return _with_value(tree, keys, Scalar(place, clean, plain=False), place, findings)
        value = parse(clean, place.file, findings.complaints, placed=False)
    except JobError as error:
        findings.complaints += [replace(complaint, line=0, column=0) for complaint in error.complaints]
        findings.paths.add(path)
        return tree
    return _with_value(tree, keys, value or Scalar(place, ""), place, findings)


def _with_value(
    node: Node | None, keys: Sequence[str], value: Node, place: Place, findings: Findings, above: str = ""
) -> Node:
    """`node` with `value` at the path `keys` under it. `above`: the path of `node` itself."""
    if not keys:
        return value
    key, path = keys[0], f"{above}.{keys[0]}" if above else keys[0]
    if node is None or (isinstance(node, Scalar) and node.value is None):
        node = default_list(above, place) or Table(place)
    if isinstance(node, Items):
        index = int(key) if key.isdecimal() and len(key) < 10 else None
        if index is None or index >= len(node.nodes):
            entries = {0: "no entries", 1: "1 entry"}.get(len(node.nodes), f"{len(node.nodes)} entries")
            problem = f"{above} has {entries}, so {path} is beyond its end"
            if not key.isdecimal():
                problem = f"{above} is a list, and {quoted(key)} is no position in it"
            findings.add(place, path, problem, f"count from 0, or set the whole list: {above}=[...]")
            return node
        changed = _with_value(node.nodes[index], keys[1:], value, place, findings, path)
        return replace(node, nodes=(*node.nodes[:index], changed, *node.nodes[index + 1 :]))
    if isinstance(node, Scalar):
        problem = f"{above} holds a single value, so there is no {path} to set"
        findings.add(place, path, problem, f"set {above} itself")
        return node
    entry = node.entries.get(key)
    changed = _with_value(entry.node if entry else None, keys[1:], value, place, findings, path)
    return replace(node, entries={**node.entries, key: Entry(entry.place if entry else place, changed)})
