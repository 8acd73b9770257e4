"""YAML text as a tree of values that know their place in the file.

Owns what of YAML a job may use, how deep and how much, and how plain words become values. What the keys mean is
`schema`'s. Values follow YAML 1.2 (`1e-3` is a number, `1:30` and `2026-01-01` are text), with `yes`, `no`,
`on` and `off` as booleans too where no text is wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from distrain.errors import Complaint
from distrain.job.file.source import Place, refuse

MAX_DEPTH = 32
MAX_VALUES = 20_000
"""How many values a file may stand for once its aliases are written out: a bomb is refused, not expanded."""


@dataclass(frozen=True)
class Scalar:
    """One value. `plain`: written without quotes, so that it may be a number, a boolean or null."""

    place: Place
    text: str
    plain: bool = True

    @property
    def value(self) -> bool | int | float | str | None:
        return resolve(self.text) if self.plain else self.text


@dataclass(frozen=True)
class Items:
    """A list."""

    place: Place
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Entry:
    """What stands under one key; `place` is the key's."""

    place: Place
    node: Node


@dataclass(frozen=True)
class Table:
    """A mapping."""

    place: Place
    entries: Mapping[str, Entry] = field(default_factory=dict)


Node = Scalar | Items | Table


def node_of(place: Place, value: Any) -> Node:
    """Plain values as a tree, all of it from one place. Text is text, whatever it looks like."""
    if isinstance(value, Mapping):
        return Table(place, {key: Entry(place, node_of(place, item)) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return Items(place, tuple(node_of(place, item) for item in value))
    if isinstance(value, bool):
        return Scalar(place, "true" if value else "false")
    return Scalar(place, str(value), plain=not isinstance(value, str))


_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **{form: True for word in ("true", "yes", "on") for form in (word, word.title(), word.upper())},
    **{form: False for word in ("false", "no", "off") for form in (word, word.title(), word.upper())},
}
_INTEGER = re.compile(r"[-+]?[0-9](_?[0-9])*")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9](_?[0-9])*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")


def resolve(text: str) -> bool | int | float | str | None:
    """The value of an unquoted word. A number too long for Python to read is infinite."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 400:
        return math.inf if _FLOAT.fullmatch(text) else text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INFINITE.fullmatch(text):
        return float(infinite[1] + "inf")
    return math.nan if text in (".nan", ".NaN", ".NAN") else text


def parse(text: str, file: str, complaints: list[Complaint], *, placed: bool = True) -> Node | None:
    """The tree of the one document in `text`, None if there is none. Duplicate keys go to `complaints`.

    `placed` False: complaints name no line, since `text` is an option's value.

    Raises:
        JobError: it is not YAML, or uses more of YAML than a job may.
    """
    return _Builder(file, complaints, placed).build(text)


@dataclass
class _Open:
    """A list or mapping whose end is not read yet. `values` and `depth` count what it stands for, aliases included."""

    place: Place
    anchor: str | None
    nodes: list[Node] | None
    entries: dict[str, Entry] = field(default_factory=dict)
    merged: dict[str, Entry] = field(default_factory=dict)
    key: Scalar | None = None
    values: int = 1
    depth: int = 1


class _Builder:
    """Builds the tree from PyYAML's events, without recursion, so that nothing deep or endless is ever held."""

    def __init__(self, file: str, complaints: list[Complaint], placed: bool) -> None:
        self._file = file
        self._complaints = complaints
        self._placed = placed
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._root: Node | None = None

    def build(self, text: str) -> Node | None:
        documents = 0
        for event in self._events(text):
            place = self._place(event.start_mark)
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        refuse(place, "a second document begins here", "keep one job to a file")
                case yaml.AliasEvent():
                    self._add_alias(place, event.anchor or "")
                case yaml.ScalarEvent():
                    self._check_tag(place, event.tag)
                    plain = event.style is None and event.tag not in ("!", _TAG + "str")
                    self._add(Scalar(place, event.value, plain), event.anchor)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._check_tag(place, event.tag)
                    nodes: list[Node] | None = [] if isinstance(event, yaml.SequenceStartEvent) else None
                    if self._open and self._open[-1].nodes is None and self._open[-1].key is None:
                        refuse(place, "a key is a list or a mapping", "write the key as text")
                    self._open.append(_Open(place, event.anchor, nodes))
                    self._check_size(place, 0, len(self._open))
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    ended = self._open.pop()
                    node: Node = (
                        Items(ended.place, tuple(ended.nodes))
                        if ended.nodes is not None
                        else Table(ended.place, ended.merged | ended.entries)
                    )
                    self._add(node, ended.anchor, ended.values, ended.depth)
        return self._root

    def _events(self, text: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem, remedy = _syntax_sentence(error)
            refuse(self._place(mark), problem, remedy)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            refuse(Place(self._file), f"this is not valid YAML: {error}", "check what is written with \\ or %")

    def _place(self, mark: Any) -> Place:
        return Place(self._file, mark.line + 1, mark.column + 1) if mark and self._placed else Place(self._file)

    def _check_tag(self, place: Place, tag: str | None) -> None:
        if tag not in (None, "!", _TAG + "str"):
            shown = tag.replace(_TAG, "!!")
            refuse(place, f"the tag {shown} is not used in a job file", "remove it; values need no tags")

    def _check_size(self, place: Place, values: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            refuse(place, f"values are nested more than {MAX_DEPTH} deep", "a job needs no more than a few levels")
        if values > MAX_VALUES:
            problem = f"the file stands for more than {MAX_VALUES} values, aliases written out"
            refuse(place, problem, "a job is shorter; remove the aliases")

    def _add_alias(self, place: Place, name: str) -> None:
        if name not in self._anchors:
            if any(name == part.anchor for part in self._open):
                refuse(place, f"*{name} stands inside the value that it repeats", "repeat a value that is complete")
            refuse(place, f"*{name} repeats nothing, since no &{name} comes before it", "quote it if it is text")
        node, values, depth = self._anchors[name]
        self._add(node, None, values, depth)

    def _add(self, node: Node, anchor: str | None, values: int = 1, depth: int = 0) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, values, depth)
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        parent.values += values
        parent.depth = max(parent.depth, depth + 1)
        self._check_size(node.place, parent.values, len(self._open) + depth)
        if parent.nodes is not None:
            parent.nodes.append(node)
        elif parent.key is None:
            if not isinstance(node, Scalar):
                refuse(node.place, "a key is a list or a mapping", "write the key as text")
            parent.key = node
        else:
            key, parent.key = parent.key, None
            self._enter(parent, key, node)

    def _enter(self, parent: _Open, key: Scalar, node: Node) -> None:
        if key.text == "<<" and key.plain:
            for source in node.nodes if isinstance(node, Items) else (node,):
                if not isinstance(source, Table):
                    refuse(key.place, "<< merges something that is no mapping", "give it mappings, such as *name")
                parent.merged = dict(source.entries) | parent.merged
        elif (first := parent.entries.get(key.text)) is not None:
            line = f" (first on line {first.place.line})" if first.place.line else ""
            problem = f'the key "{key.text}" is given twice{line}'
            self._complaints.append(key.place.complaint(problem, "keep one of the two"))
        else:
            parent.entries[key.text] = Entry(key.place, node)


_TAG = "tag:yaml.org,2002:"

_SENTENCES: tuple[tuple[str, Callable[[int], tuple[str, str]]], ...] = (
    (r"'\\t'", lambda _: ("a tab stands where only spaces may", "indent and separate with spaces")),
    (
        "mapping values are not allowed",
        lambda _: ("this colon begins no value", "quote text that holds a colon and a space, or mend the indentation"),
    ),
    ("unexpected end of stream", lambda line: (f"the quote opened on line {line} is never closed", "close it")),
    (
        r"expected ',' or",
        lambda line: (f"the bracket opened on line {line} is not closed here", "put in , or close it"),
    ),
    (
        "expected <block end>",
        lambda line: (
            f"this is indented unlike what it follows, which began on line {line}",
            "line it up with the keys beside it",
        ),
    ),
    ("could not find expected ':'", lambda line: (f"the key on line {line} has no colon", "write it as key: value")),
    ("cannot start any token", lambda _: ("no value can begin with this character", "quote the text")),
)


def _syntax_sentence(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    mark: Any = error.context_mark or error.problem_mark
    context_line = mark.line + 1
    for words, sentence in _SENTENCES:
        if re.search(words, error.problem or ""):
            return sentence(context_line)
    problem = f"this is not valid YAML: {error.problem or error.context}"
    return problem, "check the quotes, brackets and indentation here"
