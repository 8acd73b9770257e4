"""What can be done about a run: the values that `supervise` answers with, for the loop to carry out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Action:
    """Something for the loop to do."""


@dataclass(frozen=True)
class OpenHosts(Action):
    """Open these hosts anew. What there was of a connection to them is closed."""

    hosts: tuple[str, ...]


@dataclass(frozen=True)
class DropHosts(Action):
    """Close the connection to these hosts: their agents end what is left there."""

    hosts: tuple[str, ...]


@dataclass(frozen=True)
class ConnectHosts(Action):
    """Every host is prepared: find the addresses by which they reach each other."""


@dataclass(frozen=True)
class Reshape(Action):
    """Lay the tasks out anew, without the hosts that are `gone`. Answered by `cluster_changed`."""

    gone: frozenset[str]


@dataclass(frozen=True)
class ChooseCheckpoint(Action):
    """Find the newest whole one, of fewer than `before` steps. Answered by `checkpoint_chosen`."""

    before: int | None


@dataclass(frozen=True)
class SendCheckpoint(Action):
    """Send it to every host that has not got it. Answered by `checkpoint_sent`."""

    name: str


@dataclass(frozen=True)
class StartTasks(Action):
    """Start these tasks; all of them, as a new plan has it, where none is named."""

    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TryTasks(Action):
    """Try to connect to these tasks, which are overdue."""

    tasks: tuple[str, ...]


@dataclass(frozen=True)
class AskForStacks(Action):
    """Have these tasks tell where they are. Answered by a `stacks` for each."""

    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Stop(Action):
    """TERM now, KILL `grace_s` later. Empty `tasks`: all. `again`: tasks are to be started there afterwards."""

    tasks: tuple[str, ...] = ()
    grace_s: float = 0.0
    again: bool = False


@dataclass(frozen=True)
class Tell(Action):
    """Put an event of the launcher's own before the sinks."""

    kind: str
    task: str | None = None
    host: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Abandon(Action):
    """Close the connection to every host now: the agents end what is left."""


@dataclass(frozen=True)
class End(Action):
    """Nothing is left to wait for."""
