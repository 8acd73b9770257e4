"""The kinds of single values: whole numbers, switches, text, choices, ports, the environment."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distrain.job.file.kinds import UNUSABLE, Findings, listed, quoted, shown, suggestion
from distrain.job.file.tree import Items, Node, Scalar, Table

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST = 2**31 - 1
_LAST_PORT = 65535


def unpassable(text: str) -> str | None:
    """The first character of `text` that the system can pass on neither in a path nor in the environment."""
    odd = re.search("[\0\ud800-\udfff]", text)
    return f"U+{ord(odd[0]):04X}" if odd else None


class _Single:
    """A kind without short forms."""

    def expand(self, node: Node) -> Node:
        return node


@dataclass(frozen=True)
class Integer(_Single):
    minimum: int
    maximum: int = _LARGEST

    @property
    def words(self) -> str:
        return f"whole number, {self.minimum} or more"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not _whole(value):
            return findings.add(
                node.place, path, f"{path} is {shown(node)}, which is no whole number", f"give {self.minimum} or more"
            )
        if value < self.minimum:
            return findings.add(node.place, path, f"{path} is {shown(node)}", f"give {self.minimum} or more")
        if value > self.maximum:
            return findings.add(node.place, path, f"{path} is {shown(node)}", f"give {self.maximum} or less")
        return int(value)


def _whole(value: float) -> bool:
    """`1e3` is a whole number too; an infinite one is told as too large."""
    return isinstance(value, int) or math.isinf(value) or value.is_integer()


@dataclass(frozen=True)
class Seconds(_Single):
    minimum: int = 1

    @property
    def words(self) -> str:
        return f"seconds, {self.minimum} or more"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and self.minimum <= value <= _LARGEST:
            return float(value)
        remedy = f"give a number of seconds, {self.minimum} or more"
        return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)


@dataclass(frozen=True)
class StepTimeout(_Single):
    """`auto` is None, `false` is 0."""

    words: str = "seconds, 1 or more, `auto`, or `false` for never"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.text == "auto":
            return None
        value = node.value if isinstance(node, Scalar) else None
        if value is False:
            return 0.0
        if isinstance(value, int | float) and value is not True and 1 <= value <= _LARGEST:
            return float(value)
        remedy = "give auto, a number of seconds, 1 or more, or false to wait for ever"
        return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)


@dataclass(frozen=True)
class Share(_Single):
    """A number from 0 to below 1."""

    words: str = "number, 0 or more and below 1"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
            return value
        return findings.add(node.place, path, f"{path} is {shown(node)}", "give a number from 0 to below 1")


@dataclass(frozen=True)
class Boolean(_Single):
    words: str = "true or false"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        return findings.add(node.place, path, f"{path} is {shown(node)}", "give true or false, without quotes")


@dataclass(frozen=True)
class Validation(_Single):
    """Every how many epochs to validate: true is 1, false is 0."""

    words: str = "true, false, or every how many epochs"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return int(node.value)
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int) and 0 <= value <= _LARGEST:
            return value
        remedy = "give true, false, or a whole number: validate every so many epochs"
        return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)


@dataclass(frozen=True)
class Text(_Single):
    words: str = "text"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.text and not (node.plain and node.value is None):
            if bad := unpassable(node.text):
                return findings.add(node.place, path, f"{path} holds the character {bad}", "remove it")
            return node.text
        return findings.add(node.place, path, f"{path} is {shown(node)}, and it must be text", "write the text")


@dataclass(frozen=True)
class Folder(_Single):
    """A folder, seen from where the command is run; reads as its absolute path."""

    words: str = "text"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        text = Text().read(node, path, findings)
        if text is UNUSABLE:
            return text
        try:
            return os.path.abspath(os.path.expanduser(text))
        except OSError:
            problem = f"{path} is {shown(node)}, seen from the current folder, which is not there any more"
            return findings.add(node.place, path, problem, "change into another folder, or write it from / on")


@dataclass(frozen=True)
class RunName(_Single):
    words: str = "text of letters, digits, `.`, `_`, `-`"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        # fullmatch, since it names a directory
        if isinstance(node, Scalar) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", node.text):
            return node.text
        remedy = "it names a directory: use letters, digits, . _ and -, at most 64, beginning with a letter or digit"
        return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)


@dataclass(frozen=True)
class Choice(_Single):
    """One of `names`. `foreign`: names that people know from elsewhere, and what to tell them."""

    names: tuple[str, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return " | ".join(f"`{name}`" for name in self.names)

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.text in self.names:
            return node.text
        text = node.text if isinstance(node, Scalar) else ""
        remedy = self.foreign.get(text) or suggestion(text, self.names, f"choose one of {listed(self.names)}")
        return findings.add(node.place, path, f"{path} is {shown(node)}, which is none of its values", remedy)


@dataclass(frozen=True)
class Ports(_Single):
    words: str = "list of ports and `first-last` ranges"

    def expand(self, node: Node) -> Node:
        return Items(node.place, (node,)) if isinstance(node, Scalar) and node.value is not None else node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Items):
            return findings.add(
                node.place, path, f"{path} is {shown(node)}", 'give a list such as [20000, "20010-20019"]'
            )
        ports: list[int] = []
        for item in node.nodes:
            bounds = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", item.text) if isinstance(item, Scalar) else None
            first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (0, 0)
            if not 1 <= first <= last <= _LAST_PORT:
                remedy = "give a port from 1 to 65535, or a range such as 20000-20099"
                findings.add(item.place, path, f"{path} holds {shown(item)}, which is no port", remedy)
            elif len(ports) + last - first >= _LAST_PORT:
                return findings.add(node.place, path, f"{path} lists ports more than once", "list each once")
            else:
                ports += range(first, last + 1)
        return UNUSABLE if path in findings.paths else tuple(dict.fromkeys(ports))


@dataclass(frozen=True)
class LayerSizes(_Single):
    words: str = "list of whole numbers, 1 or more"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Items) or not node.nodes:
            given = "empty" if isinstance(node, Items) else shown(node)
            return findings.add(node.place, path, f"{path} is {given}", "give a list of layer sizes, such as [128, 64]")
        sizes = [Integer(1).read(item, f"{path}.{index}", findings) for index, item in enumerate(node.nodes)]
        return UNUSABLE if UNUSABLE in sizes else sizes


@dataclass(frozen=True)
class ClassWeights(_Single):
    """What an example of a class counts, by the class's number, as JSON has keys: in text."""

    words: str = "mapping of classes to numbers"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Table) or not node.entries:
            given = "an empty mapping" if isinstance(node, Table) else shown(node)
            remedy = "give a mapping such as {0: 1, 3: 2.5}; classes that it leaves out count 1"
            return findings.add(node.place, path, f"{path} is {given}", remedy)
        weights: dict[str, float] = {}
        for name, entry in node.entries.items():
            value = entry.node.value if isinstance(entry.node, Scalar) else None
            if not re.fullmatch(r"0|[1-9][0-9]{0,8}", name):
                problem = f"{path} holds {quoted(name)}, which is no class"
                findings.add(entry.place, path, problem, "name a class by its number, counted from 0")
            elif not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
                problem = f"{path} of class {name} is {shown(entry.node)}"
                findings.add(entry.node.place, path, problem, "give a number, 0 or more")
            else:
                weights[name] = float(value)
        return UNUSABLE if path in findings.paths else weights


@dataclass(frozen=True)
class Environment(_Single):
    """`owned`: tells why distrain sets a variable itself, None for one that the job may set."""

    owned: Callable[[str], str | None]
    words: str = "mapping of names to text"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.value is None:
            return {}
        if not isinstance(node, Table):
            return findings.add(node.place, path, f"{path} is {shown(node)}", "give a mapping such as {NAME: value}")
        values: dict[str, str] = {}
        for name, entry in node.entries.items():
            if not _ENV_NAME.fullmatch(name):
                problem = f"{quoted(name)} is no name of an environment variable"
                findings.add(entry.place, path, problem, "use letters, digits and _, no digit first")
            elif reason := self.owned(name):
                findings.add(entry.place, path, f"{name} cannot be set by a job: {reason}", "remove it")
            elif not isinstance(entry.node, Scalar):
                problem = f"{path}.{name} is {shown(entry.node)}, and an environment variable holds text"
                findings.add(entry.node.place, path, problem, "give text")
            elif entry.node.plain and (entry.node.value is None or isinstance(entry.node.value, bool)):
                # A number means its digits; but is `yes` the text "yes", "true", "True" or "1"?
                word = entry.node.text
                problem = f"{path}.{name} is {word or 'empty'}, which is not text"
                findings.add(entry.node.place, path, problem, f'write "{word}" or whatever the program expects')
            elif bad := unpassable(entry.node.text):
                problem = f"{path}.{name} holds the character {bad}, which no environment variable can hold"
                findings.add(entry.node.place, path, problem, "remove it")
            else:
                values[name] = entry.node.text
        return values
