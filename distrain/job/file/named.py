"""Things by name, with arguments: a model, an optimizer, a loss, a metric, a callback.

`adam`, `{name: adam, learning_rate: 0.001}` and `{name: adam, args: {learning_rate: 0.001}}` are the same. Names and
arguments that Keras would refuse are refused here; those of the user's own functions pass as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distrain.job.file import keras_names
from distrain.job.file.kinds import UNUSABLE, Findings, Kind, ListOf, listed, quoted, shown, suggestion
from distrain.job.file.source import Place
from distrain.job.file.tree import Entry, Items, Node, Scalar, Table
from distrain.job.spec import Named

_SCHEDULE_KEY = "learning_rate"


def is_function_name(text: str) -> bool:
    """Whether `text` has the form `package.module:function`."""
    module, colon, function = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *function.split(".")))


def function_remedy(text: str, otherwise: str) -> str:
    """What to do about a name that is unknown, when it might have been meant for a function of the user's."""
    dotted = text.rpartition(".")
    if ":" in text or "/" in text:
        return "a function of your own is named package.module:function"
    if dotted[0] and is_function_name(f"{dotted[0]}:{dotted[2]}"):
        return f"if it is a function of your own, write {quoted(dotted[0] + ':' + dotted[2])}"
    return otherwise


@dataclass(frozen=True)
class KnownOrFunction:
    """A name out of `names`, or `package.module:function`. `offered`: the names as a sentence lists them."""

    names: tuple[str, ...]
    offered: tuple[str, ...]

    @property
    def words(self) -> str:
        return " | ".join(f"`{name}`" for name in (*self.offered, "package.module:function"))

    def expand(self, node: Node) -> Node:
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        text = node.text if isinstance(node, Scalar) else ""
        if text in self.names or is_function_name(text):
            return text
        choose = function_remedy(text, f"choose one of {listed(self.offered)}, or package.module:function")
        remedy = suggestion(text, self.names, choose)
        return findings.add(node.place, path, f"{path} is {shown(node)}, which distrain does not know", remedy)


@dataclass(frozen=True)
class FamilyName:
    """A name that Keras knows in `family`, or `package.module:function`."""

    family: keras_names.Family
    noun: str

    @property
    def words(self) -> str:
        return f"name of a Keras {self.noun} or `package.module:function`"

    def expand(self, node: Node) -> Node:
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        text = node.text if isinstance(node, Scalar) else ""
        if self.family.class_of(text) or is_function_name(text):
            return text
        if reason := self.family.unusable.get(text):
            return findings.add(node.place, path, f"{path} cannot be {text} in a job file", reason)
        one_of = f"Keras's are {listed(self.family.classes)}; one of your own is named package.module:function"
        remedy = suggestion(text, self.family.names, function_remedy(text, one_of))
        return findings.add(node.place, path, f"Keras has no {self.noun} {shown(node)}", remedy)


@dataclass(frozen=True)
class NamedKind:
    """A name and arguments. `name` reads the name; with `family`, the arguments' names are checked as well.

    `default`: the name when only arguments are given, None if there must be one. `values`: the kinds of arguments
    that distrain itself defines, by name and argument.
    """

    name: KnownOrFunction | FamilyName
    family: keras_names.Family | None = None
    default: str | None = None
    values: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return f"{self.name.words}, or `{{name, arguments}}`"

    def expand(self, node: Node) -> Node:
        if isinstance(node, Scalar) and node.value is not None:
            return Table(node.place, {"name": Entry(node.place, node)})
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Table):
            return findings.add(node.place, path, f"{path} is {shown(node)}", "give a name, or {name: ..., arguments}")
        before = len(findings.complaints)
        if "name" in node.entries:
            name = self.name.read(node.entries["name"].node, path, findings)
        elif self.default is not None:
            name = self.default
        else:
            return findings.add(node.place, path, f"{path} has no name", "write {name: ..., arguments}")
        entries = argument_entries(node, path, findings)
        kinds = self.values.get(name, {}) if name is not UNUSABLE else {}
        args = {
            key: kinds[key].read(entry.node, f"{path}.{key}", findings)
            if key in kinds
            else self._argument(key, entry.node, f"{path}.{key}", findings)
            for key, entry in entries.items()
        }
        if name is not UNUSABLE and self.family is not None:
            check_arguments(self.family, name, entries, node.place, path, findings)
        return UNUSABLE if len(findings.complaints) > before else Named(name, args)

    def _argument(self, key: str, node: Node, path: str, findings: Findings) -> Any:
        if key != _SCHEDULE_KEY or self.family is not keras_names.OPTIMIZERS:
            return free_value(node, path, findings)
        return _learning_rate(node, path, findings)


@dataclass(frozen=True)
class OutputsOr:
    """What `item` reads, or a mapping of such by the outputs of a model, as in `{size: mse, kind: hinge}`."""

    item: NamedKind | ListOf

    @property
    def words(self) -> str:
        return f"{self.item.words}; or mapping of outputs to such"

    def expand(self, node: Node) -> Node:
        if not self._is_of_outputs(node):
            return self.item.expand(node)
        assert isinstance(node, Table)
        entries = {name: Entry(entry.place, self.item.expand(entry.node)) for name, entry in node.entries.items()}
        return Table(node.place, entries)

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not self._is_of_outputs(node):
            return self.item.read(node, path, findings)
        assert isinstance(node, Table)
        values = {name: self.item.read(entry.node, f"{path}.{name}", findings) for name, entry in node.entries.items()}
        return UNUSABLE if UNUSABLE in values.values() else values

    def _is_of_outputs(self, node: Node) -> bool:
        """A mapping may also hold the arguments of one thing, with its name or, if there is a default, without."""
        if not isinstance(node, Table) or not node.entries or not node.entries.keys().isdisjoint(("name", "args")):
            return False
        if isinstance(self.item, NamedKind) and self.item.family is not None and self.item.default is not None:
            default = self.item.family.class_of(self.item.default)
            if default and not node.entries.keys().isdisjoint(self.item.family.arguments(default)):
                return False
        nodes = [entry.node for entry in node.entries.values()]
        return not any(isinstance(each, Scalar) and not isinstance(each.value, str) for each in nodes)


def argument_entries(node: Table, path: str, findings: Findings) -> dict[str, Entry]:
    """The arguments beside `name`, and those under `args`."""
    beside = {key: entry for key, entry in node.entries.items() if key not in ("name", "args")}
    under = node.entries.get("args")
    if under is None or (isinstance(under.node, Scalar) and under.node.value is None):
        return beside
    if not isinstance(under.node, Table):
        findings.add(under.node.place, path, f"{path}.args is {shown(under.node)}", "give a mapping of arguments")
        return beside
    for key in beside.keys() & under.node.entries.keys():
        problem = f"{path} has the argument {quoted(key)} twice, beside its name and under args"
        findings.add(beside[key].place, path, problem, "keep one of the two")
    return beside | dict(under.node.entries)


def check_arguments(
    family: keras_names.Family,
    name: str,
    entries: Mapping[str, Entry],
    place: Place,
    path: str,
    findings: Findings,
) -> None:
    """Complain about arguments that the Keras class does not take, and about missing ones that it needs."""
    class_name = family.class_of(name)
    if class_name is None:
        return
    known = family.arguments(class_name)
    for key, entry in entries.items():
        if key not in known:
            meant = _SCHEDULE_KEY if key == "lr" and _SCHEDULE_KEY in known else key
            remedy = suggestion(meant, (*known, "name", "args"), f"its arguments are {listed(known)}")
            findings.add(entry.place, path, f"{class_name} has no argument {quoted(key)}", remedy)
    missing = [argument for argument in family.required(class_name) if argument not in entries]
    if missing:
        example = ", ".join(f"{argument}: ..." for argument in missing)
        findings.add(place, path, f"{class_name} needs {listed(missing)}", f"write {{name: {name}, {example}}}")


def _learning_rate(node: Node, path: str, findings: Findings) -> Any:
    """A number above 0, `package.module:function`, or a schedule as `{"name": ..., "args": ...}`."""
    if isinstance(node, Scalar):
        value = node.value
        if isinstance(value, str) and is_function_name(value):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return value
        remedy = "give a number above 0, or a schedule such as {name: CosineDecay, ...}"
        return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)
    schedule = NamedKind(FamilyName(keras_names.SCHEDULES, "learning-rate schedule"), keras_names.SCHEDULES)
    named = schedule.read(node, path, findings)
    return UNUSABLE if named is UNUSABLE else {"name": named.name, "args": dict(named.args)}


def free_value(node: Node, path: str, findings: Findings) -> Any:
    """Whatever stands there, as plain values that JSON can carry."""
    if isinstance(node, Table):
        return {key: free_value(entry.node, f"{path}.{key}", findings) for key, entry in node.entries.items()}
    if isinstance(node, Items):
        return [free_value(item, f"{path}.{index}", findings) for index, item in enumerate(node.nodes)]
    value = node.value
    if isinstance(value, int | float) and not -(2**63) <= value < 2**63:
        problem = f"{path} is {shown(node)}, which is no number that a computer holds exactly"
        return findings.add(node.place, path, problem, "give a finite number of at most 18 digits, or quote it as text")
    return value
