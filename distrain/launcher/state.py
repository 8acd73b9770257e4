"""What is known of a run, and what can be done about it: the frozen values that `supervise` decides on.

Owns how a run is judged from what is known: the first failure, the outcome, the exit code. What changes them, and
when, is `supervise`'s.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from distrain.errors import EXIT_HOST, EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM, EXIT_TASK_FAILED, EXIT_USAGE


@dataclass(frozen=True)
class Policy:
    """How patient a run is.

    `settle_s`: how long a failure that looks like a consequence waits for its cause to be heard of, and a failure for
    its exit code. `hosts_settle_s`: how long the first host that cannot be used waits for what the others say, so that
    all of them are named at once. `overdue_s`: how long tasks may take to be ready before what is missing is said, and
    again. `receiving_s`: how long files may pause on their way here while a run ends.
    """

    failure_grace_s: float = 3.0
    stop_grace_s: float = 8.0
    finish_grace_s: float = 10.0
    settle_s: float = 0.4
    hosts_settle_s: float = 3.0
    overdue_s: float = 10.0
    receiving_s: float = 15.0
    start_timeout_s: float = 900.0


class Phase(StrEnum):
    OPENING = "opening"
    RUNNING = "running"
    FINISHING = "finishing"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True)
class TaskState:
    """What is known of one task. `serves`: it never ends by itself, and is stopped when the run's work is done.
    `speaks`: it says itself when it is ready and when it is done; a program is ready when it runs, and done when it
    ends with exit code 0. `reach`: what came of trying to connect to it, while it was overdue.
    """

    name: str
    host: str
    serves: bool = False
    speaks: bool = True
    doing: str = "waiting for its host"
    reach: str | None = None
    ready: bool = False
    done: bool = False
    exited: bool = False
    cleared: bool = False
    failure: Mapping[str, Any] | None = None
    """What the task said of its own failure, before it exited."""

    @property
    def is_evaluator(self) -> bool:
        return self.name.startswith("evaluator:")


@dataclass(frozen=True)
class Failure:
    """A task's end that nobody asked for. `cause` False: it looks like what a peer's failure does to the others."""

    time: float
    task: str | None
    host: str | None
    attempt: int
    kind: str
    message: str
    exit_code: int | None = None
    signal: str | None = None
    log_tail: tuple[str, ...] = ()
    where: str | None = None
    cause: bool = True

    def to_json(self) -> dict[str, Any]:
        """`summary.json`'s `first_failure`."""
        return {
            "task": self.task,
            "host": self.host,
            "attempt": self.attempt,
            "kind": self.kind,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "message": self.message,
            "where": self.where,
            "log_tail": list(self.log_tail),
        }


@dataclass(frozen=True)
class State:
    policy: Policy
    chief: str
    tasks: Mapping[str, TaskState]
    hosts: frozenset[str]
    attempt: int = 1
    phase: Phase = Phase.OPENING
    began: float = 0.0
    hosts_prepared: frozenset[str] = frozenset()
    hosts_failed: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    failure_told: bool = False
    stopped_by: int | None = None
    at_once: bool = False
    overdue_told: float = 0.0
    deadline: float | None = None
    """When the last word asked of the tasks (to finish, to stop) must have been heeded."""

    @property
    def first_failure(self) -> Failure | None:
        """The earliest failure that is not a mere consequence; failing that, the earliest."""
        return min(self.failures, key=lambda failure: (not failure.cause, failure.time), default=None)

    @property
    def outcome(self) -> str:
        """`summary.json`'s `state`, once the run has ended."""
        if self.stopped_by is not None:
            return "stopped"
        return "failed" if self.failures else "succeeded"

    @property
    def exit_code(self) -> int:
        if self.stopped_by is not None:
            return EXIT_SIGINT if self.stopped_by == signal.SIGINT else EXIT_SIGTERM
        if self.first_failure is None:
            return EXIT_OK
        first = self.first_failure
        if first.exit_code and self._one_answers and first.task == self.chief:
            return first.exit_code
        return {"job": EXIT_USAGE, "host": EXIT_HOST}.get(first.kind, EXIT_TASK_FAILED)

    @property
    def _one_answers(self) -> bool:
        """Whether the chief is the one program of a ParameterServer cluster that ends by itself: its exit code is then
        the run's.
        """
        others = [task for task in self.tasks.values() if task.name != self.chief]
        chief = self.tasks[self.chief]
        return not chief.speaks and not chief.serves and all(task.serves for task in others) and self._has_servers

    @property
    def _has_servers(self) -> bool:
        return any(name.startswith("ps:") for name in self.tasks)


# ---- actions


@dataclass(frozen=True)
class Action:
    """Something for the loop to do."""


@dataclass(frozen=True)
class ConnectHosts(Action):
    """Every host is prepared: find the addresses by which they reach each other."""


@dataclass(frozen=True)
class StartTasks(Action):
    """Make the plan and start all tasks."""


@dataclass(frozen=True)
class TryTasks(Action):
    """Try to connect to these tasks, which are overdue."""

    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Stop(Action):
    """TERM now, KILL `grace_s` later. Empty `tasks`: all."""

    tasks: tuple[str, ...] = ()
    grace_s: float = 0.0


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
