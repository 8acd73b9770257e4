"""A program of the user's as a job names it: its words, and the folder that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distrain.job.file.kinds import UNUSABLE, Findings, Section, shown
from distrain.job.file.tree import Entry, Items, Node, Scalar, Table
from distrain.job.file.values import Text, unpassable

_EXAMPLE = 'write it as a list, such as [train.py, --lr, "0.1"]'


@dataclass(frozen=True)
class Arguments:
    """A script or command, and its arguments: each taken as it is written."""

    words: str = "list of text"

    def expand(self, node: Node) -> Node:
        # Several words in one text were meant for a shell, and there is none.
        if isinstance(node, Scalar) and node.value is not None and len(node.text.split()) == 1:
            return Items(node.place, (node,))
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Items) or not node.nodes:
            given = "an empty list" if isinstance(node, Items) else shown(node)
            return findings.add(node.place, path, f"{path} is {given}, and it must name a program", _EXAMPLE)
        words = [self._word(item, f"{path}.{index}", findings) for index, item in enumerate(node.nodes)]
        if UNUSABLE in words:
            return UNUSABLE
        if not words[0] or words[0].startswith("-"):
            flaw = "begins with a dash" if words[0] else "is empty"
            remedy = "begin with the script or command; one whose name begins with a dash is written ./-name"
            return findings.add(node.nodes[0].place, path, f"the program that {path} names {flaw}", remedy)
        return tuple(words)

    def _word(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Scalar) or (node.plain and not node.text):
            remedy = 'give text; an empty argument is written ""'
            return findings.add(node.place, path, f"{path} is {shown(node)}, and an argument is text", remedy)
        if bad := unpassable(node.text):
            return findings.add(node.place, path, f"{path} holds the character {bad}", "remove it")
        return node.text


@dataclass(frozen=True)
class Program(Section):
    """`[train.py, --lr, "0.1"]`, or a mapping with that under `argv`."""

    @property
    def words(self) -> str:
        return "list of text, or mapping"

    def expand(self, node: Node) -> Node:
        if isinstance(node, Items) or (isinstance(node, Scalar) and node.value is not None):
            node = Table(node.place, {"argv": Entry(node.place, node)})
        return super().expand(node)

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Table):
            return findings.add(node.place, path, f"{path} is {shown(node)}", _EXAMPLE)
        before = len(findings.complaints)
        values = self.values(node, path, findings)
        if "argv" not in node.entries and len(findings.complaints) == before:
            return findings.add(node.place, path, f"{path} has no argv", _EXAMPLE)
        return self.make(**values) if "argv" in values else UNUSABLE


@dataclass(frozen=True)
class CodeFolder:
    words: str = "folder, true or false"

    def expand(self, node: Node) -> Node:
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        return Text().read(node, path, findings)
