"""The kinds of what a strategy is told: how devices stand in rows and columns, and what is divided over them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from distrain.job.file.kinds import UNUSABLE, Findings, Section, listed, quoted, shown, suggestion
from distrain.job.file.tree import Items, Node, Scalar, Table

DIMENSIONS = ("batch", "model")
"""The mesh's two."""


@dataclass(frozen=True)
class Mesh(Section):
    """Both numbers, or nothing."""

    @property
    def words(self) -> str:
        return "mapping of `batch` and `model`"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        example = "write {batch: 2, model: 2}: batch times model is the number of devices"
        if not isinstance(node, Table):
            return findings.add(node.place, path, f"{path} is {shown(node)}", example)
        before = len(findings.complaints)
        values = self.values(node, path, findings)
        missing = [key for key in self.keys if key not in node.entries]
        if missing and len(findings.complaints) == before:
            return findings.add(node.place, path, f"{path} has no {' and no '.join(missing)}", example)
        return self.make(**values) if len(findings.complaints) == before else UNUSABLE


@dataclass(frozen=True)
class Layout:
    """`auto` is None."""

    words: str = "`auto`, or mapping of regular expressions to lists of `batch`, `model` and null"

    def expand(self, node: Node) -> Node:
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.text == "auto":
            return None
        if not isinstance(node, Table) or not node.entries:
            given = "an empty mapping" if isinstance(node, Table) else shown(node)
            remedy = 'give auto, or a mapping such as {"dense.*/kernel": [null, model]}'
            return findings.add(node.place, path, f"{path} is {given}", remedy)
        layout: dict[str, Any] = {}
        for pattern, entry in node.entries.items():
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                problem = f"{path} holds {quoted(pattern)}, which is no regular expression: {error}"
                findings.add(entry.place, path, problem, "mend it; a name as it is, such as dense/kernel, is one too")
                continue
            layout[pattern] = self._axes(entry.node, f"{path} for {quoted(pattern)}", path, findings)
        return UNUSABLE if path in findings.paths else layout

    def _axes(self, node: Node, where: str, path: str, findings: Findings) -> Any:
        """What each axis of a variable is divided over, None for one that is not."""
        if not isinstance(node, Items) or not node.nodes:
            given = "an empty list" if isinstance(node, Items) else shown(node)
            remedy = "give a list of what each axis is divided over, such as [null, model]"
            return findings.add(node.place, path, f"{where} is {given}", remedy)
        axes: list[str | None] = []
        for item in node.nodes:
            empty = isinstance(item, Scalar) and item.plain and item.value is None
            name = None if empty or not isinstance(item, Scalar) else item.text
            if not empty and name not in DIMENSIONS:
                remedy = suggestion(name or "", DIMENSIONS, f"choose one of {listed(DIMENSIONS)}, or null for neither")
                return findings.add(item.place, path, f"{where} holds {shown(item)}, which no mesh has", remedy)
            if name is not None and name in axes:
                remedy = "divide one axis over it, and write null for the other"
                return findings.add(item.place, path, f"{where} divides two axes over {name}", remedy)
            axes.append(name)
        return tuple(axes)
