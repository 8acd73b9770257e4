"""How a place of a job file becomes a value: what all kinds share, and those made of others, lists and sections.

Each kind says what it accepts in words (`words`, also for the documentation), spells short forms out (`expand`) and
reads (`read`). What is wrong goes to `Findings`, all of it. Which key is of which kind is `schema`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Protocol

from distrain.errors import Complaint
from distrain.job.file.source import Place
from distrain.job.file.tree import Entry, Items, Node, Scalar, Table

UNUSABLE: Final = object()
"""What `read` returns in place of a value when it has complained."""


@dataclass
class Findings:
    """What is wrong with a job, and the keys (as dotted paths) that it is wrong with.

    `homes`: the path where a key belongs, by its bare name, for advice about one in the wrong place.
    """

    homes: Mapping[str, str] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    def add(self, place: Place, path: str, problem: str, remedy: str) -> Any:
        """Note one thing; returns UNUSABLE, so that a reader can end with it."""
        self.complaints.append(place.complaint(printable(problem), remedy))
        self.paths.add(path)
        return UNUSABLE

    def concern(self, path: str) -> bool:
        """Whether something at, under or above `path` is wrong, so that its value says nothing."""
        return any(f"{wrong}.".startswith(f"{path}.") or f"{path}.".startswith(f"{wrong}.") for wrong in self.paths)


class Kind(Protocol):
    @property
    def words(self) -> str: ...

    def expand(self, node: Node) -> Node: ...

    def read(self, node: Node, path: str, findings: Findings) -> Any: ...


def shown(node: Node) -> str:
    """What stands in the file, for a sentence, short and on one line."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Table):
        return "a mapping"
    if node.plain and node.value is None:
        return "empty"
    return quoted(node.text) if not node.plain or isinstance(node.value, str) else _cut(node.text)


def quoted(text: str) -> str:
    return '"' + _cut(text) + '"'


def _cut(text: str) -> str:
    return printable(text) if len(text) <= 60 else printable(text[:57]) + "..."


def printable(text: str) -> str:
    """`text` on one line, without what a terminal would obey, and no longer than somebody reads."""
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return clean if len(clean) <= 400 else clean[:397] + "..."


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that was probably meant, as it is to be written."""
    by_form = {re.sub(r"[-_ ]", "", known.lower()): known for known in names}
    form = re.sub(r"[-_ ]", "", name.lower()).removesuffix("strategy") or name
    if near := difflib.get_close_matches(name, list(by_form.values()), n=1, cutoff=0.75):
        return near[0]
    begun = [known for known in by_form if len(form) > 1 and known.startswith(form)]
    near = begun or difflib.get_close_matches(form, list(by_form), n=1, cutoff=0.6)
    return by_form[near[0]] if near else None


def suggestion(name: str, names: Iterable[str], otherwise: str) -> str:
    near = nearest(name, names)
    return f"did you mean {quoted(near)}?" if near else otherwise


def listed(names: Iterable[str]) -> str:
    all_names = tuple(names)
    return (
        ", ".join(all_names) if len(all_names) <= 20 else f"{', '.join(all_names[:16])} and {len(all_names) - 16} more"
    )


@dataclass(frozen=True)
class ListOf:
    """A list, or a single item in its place."""

    item: Kind

    @property
    def words(self) -> str:
        return f"list of: {self.item.words}"

    def expand(self, node: Node) -> Node:
        if isinstance(node, Scalar) and node.value is None:
            return node
        nodes = node.nodes if isinstance(node, Items) else (node,)
        return Items(node.place, tuple(self.item.expand(item) for item in nodes))

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Items):
            return findings.add(node.place, path, f"{path} is {shown(node)}", "give a list, [] for none")
        values = [self.item.read(item, f"{path}.{index}", findings) for index, item in enumerate(node.nodes)]
        return UNUSABLE if UNUSABLE in values else tuple(values)


@dataclass(frozen=True)
class Section:
    """A mapping with known keys. `short`: the key that a single value in its place stands for."""

    make: type[Any]
    keys: Mapping[str, Kind]
    short: str | None = None

    @property
    def words(self) -> str:
        return "mapping" + (f", or its `{self.short}`" if self.short else "")

    def default(self, name: str) -> Any:
        """MISSING for a key that has none."""
        default = {part.name: part for part in fields(self.make)}[name]
        return default.default if default.default_factory is MISSING else default.default_factory()

    def expand(self, node: Node) -> Node:
        if self.short and isinstance(node, Scalar) and node.value is not None:
            node = Table(node.place, {self.short: Entry(node.place, node)})
        if not isinstance(node, Table):
            return node
        entries = {
            name: Entry(entry.place, self.keys[name].expand(entry.node)) if name in self.keys else entry
            for name, entry in node.entries.items()
        }
        return Table(node.place, entries)

    def values(self, node: Node, path: str, findings: Findings) -> dict[str, Any]:
        """The value of each key that is given and right. Null stands for a default of None."""
        if isinstance(node, Scalar) and node.value is None:
            return {}
        if not isinstance(node, Table):
            findings.add(node.place, path, f"{path or 'the job'} is {shown(node)}", f"give a {self.words}")
            return {}
        values: dict[str, Any] = {}
        for name, entry in node.entries.items():
            key_path = f"{path}.{name}" if path else name
            if name not in self.keys:
                problem = f"{path or 'a job'} has no key {quoted(name)}"
                findings.add(entry.place, key_path, problem, self._advice(name, findings))
            elif not (self.default(name) is None and isinstance(entry.node, Scalar) and entry.node.value is None):
                value = self.keys[name].read(entry.node, key_path, findings)
                if value is not UNUSABLE:
                    values[name] = value
        return values

    def _advice(self, name: str, findings: Findings) -> str:
        if home := findings.homes.get(name):
            section = home.rpartition(".")[0]
            return f"it belongs under {section}" if section else "it belongs to the top level of the file"
        return suggestion(name, self.keys, f"its keys are {listed(self.keys)}")

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        return self.make(**self.values(node, path, findings))


@dataclass(frozen=True)
class Switched(Section):
    """A mapping that can be switched: `false`, or 0 where a number is its short form, means None; `true` its defaults.

    `off`: what None means, a word. `example`: a mapping, for advice.
    """

    off: str = "none"
    example: str = ""

    @property
    def words(self) -> str:
        return ", ".join(["mapping", *([f"its `{self.short}`"] if self.short else []), f"or `false` for {self.off}"])

    def expand(self, node: Node) -> Node:
        if isinstance(node, Scalar) and node.value is True:
            return Table(node.place)
        return node if self._is_off(node) else super().expand(node)

    def _is_off(self, node: Node) -> bool:
        if not isinstance(node, Scalar):
            return False
        return node.value is False or (self.short is not None and node.plain and node.value == 0)

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if self._is_off(node):
            return None
        if not isinstance(node, Table):
            remedy = f"give {self.example} or the like, or false for {self.off}"
            return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)
        return super().read(node, path, findings)
