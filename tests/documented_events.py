"""docs/events.md as a table, to hold the events of real runs against."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_TEXT = (Path(__file__).parents[1] / "docs" / "events.md").read_text()
_IN_EVERY_EVENT = {"time", "kind", "task", "host", "attempt"}


def documented() -> dict[str, set[str]]:
    """The fields of each kind of event. `note` is in both tables: its fields are the same."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", _TEXT, re.MULTILINE)
    return {kind: set(re.findall(r"`(\w+)`", fields)) for kind, fields in rows}


def undocumented(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Kinds and fields that occur and are not in the tables."""
    known = documented()
    found = {(event["kind"], name) for event in events for name in ("", *(event.keys() - _IN_EVERY_EVENT))}
    return sorted(f"{kind}.{name}" for kind, name in found if kind not in known or name not in {"", *known[kind]})
