"""Hosts as a job names them: `user@host:slots`, or a mapping.

What stands here ends in the arguments of `ssh`, so a name is checked strictly: it can be no option, and holds nothing
that a shell or a terminal would obey. Which tasks go where is `cluster`'s.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from distrain.job.file.kinds import UNUSABLE, Findings, Section, quoted, shown
from distrain.job.file.source import Place
from distrain.job.file.tree import Entry, Node, Scalar, Table

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_ODD_IN_NAME = re.compile(r"[^A-Za-z0-9._-]")
_ZONE = re.compile(r"[A-Za-z0-9._-]+")
_LONGEST = 255
_FORM = "letters, digits, . _ and -"
_REMEDY = f"a host is a name, an alias of ssh's, an address, or user@ before one of these, of {_FORM}"


def split_slots(text: str) -> tuple[str, str | None]:
    """The host and the slots in `host:slots`; no slots where there is no such colon, as within an IPv6 address."""
    head, colon, tail = text.rpartition(":")
    if colon and "]" not in tail and (":" not in head or head.endswith("]")):
        return head, tail
    return text, None


def offer_node(place: Place, text: str, **more: Node) -> Node:
    """`host:slots` as a mapping, `more` being in it too; as it is where nobody can tell host from slots."""
    host, slots = split_slots(text)
    if ":" in host and not host.endswith("]"):
        return Scalar(place, text)  # an IPv6 address without brackets
    nodes: dict[str, Node] = {"host": Scalar(place, host), **more}
    if slots is not None:
        nodes["slots"] = Scalar(place, slots)
    return Table(place, {key: Entry(place, node) for key, node in nodes.items()})


def _ipv6(text: str) -> str | None:
    """The IPv6 address that `text` is, without brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address, percent, zone = bare.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return None
    return bare if not percent or _ZONE.fullmatch(zone) else None


def _flaw(name: str) -> str | None:
    """Why `name` can be no user's and no host's, as the end of "which …"."""
    if not name:
        return "has no name where one must be"
    if name.startswith("-"):
        return "begins with a dash, as options do"
    if odd := _ODD_IN_NAME.search(name):
        return f"holds {quoted(odd[0])}"
    return None if _NAME.fullmatch(name) else "does not begin and end with a letter or digit"


@dataclass(frozen=True)
class HostName:
    """`user`: whether `user@` may come first. Reads as ssh's destination: an IPv6 address loses its brackets."""

    user: bool
    words: str = "text"

    def expand(self, node: Node) -> Node:
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Scalar) or not node.text or (node.plain and node.value is None):
            return findings.add(node.place, path, f"{path} is {shown(node)}, and it must name a host", _REMEDY)
        user, at, host = node.text.rpartition("@") if self.user else ("", "", node.text)
        address = _ipv6(host)
        flaw = (_flaw(user) if at else None) or (_flaw(host) if address is None else None)
        remedy = _REMEDY
        if flaw and "," in node.text:
            remedy = "write each host as an entry of its own"
        elif flaw and ":" in host:
            remedy = "slots follow as host:2, and an IPv6 address stands in brackets, as in [fd00::1]:2"
        elif flaw is None and host.isdecimal():
            flaw = "is a number, and no host"
        elif len(node.text) > _LONGEST:
            flaw = f"is longer than {_LONGEST} characters"
        if flaw:
            return findings.add(node.place, path, f"{path} is {shown(node)}, which {flaw}", remedy)
        return f"{user}{at}{address or host}"


@dataclass(frozen=True)
class HostFile:
    """A path that is handed to a program as an argument of its own; any path, but nothing that reads as an option."""

    words: str = "text"

    def expand(self, node: Node) -> Node:
        return node

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        text = node.text if isinstance(node, Scalar) and not (node.plain and node.value is None) else ""
        if text and text.isprintable() and not text.startswith("-"):
            return text
        flaw = "and it must be a path"
        if text:
            flaw = (
                "which begins with a dash, as options do" if text.isprintable() else "which holds a control character"
            )
        return findings.add(node.place, path, f"{path} is {shown(node)}, {flaw}", "write the path")


@dataclass(frozen=True)
class HostOffer(Section):
    """One entry of `cluster.hosts`; `host:slots` is short for a mapping of the two."""

    @property
    def words(self) -> str:
        return "`user@host:slots` or mapping"

    def expand(self, node: Node) -> Node:
        if isinstance(node, Scalar) and node.value is not None:
            node = offer_node(node.place, node.text)
        return super().expand(node)

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.value is not None:
            remedy = "an IPv6 address stands in brackets, as in [fd00::1] or [fd00::1]:2"
            return findings.add(node.place, path, f"{path} is {shown(node)}, and a host has one colon", remedy)
        if not isinstance(node, Table):
            return findings.add(
                node.place, path, f"{path} is {shown(node)}", "give host:slots, or {host: ..., slots: 2}"
            )
        before = len(findings.complaints)
        values = self.values(node, path, findings)
        if "host" not in node.entries and len(findings.complaints) == before:
            return findings.add(node.place, path, f"{path} names no host", "write {host: ..., slots: 2}")
        return self.make(**values) if "host" in values else UNUSABLE
