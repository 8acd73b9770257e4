"""What is known of a run: the frozen values that `supervise` decides on.

Owns how a run is judged from what is known: the first failure, the outcome, the exit code. What changes them, and
when, is `supervise`'s.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from distrain.errors import EXIT_HOST, EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM, EXIT_TASK_FAILED, EXIT_USAGE
from distrain.job.plan import Resume
from distrain.job.spec import JobSpec, RestartSpec, WatchdogSpec
from distrain.launcher.supervise.actions import Action
from distrain.launcher.supervise.stragglers import Pace
from distrain.launcher.supervise.watchdog import Watch


@dataclass(frozen=True)
class Policy:
    """How patient a run is.

    `settle_s`: how long a failure that looks like a consequence waits for its cause to be heard of, and a failure for
    its exit code. `hosts_settle_s`: how long the first host that cannot be used waits for what the others say, so that
    all of them are named at once. `overdue_s`: how long tasks may take to be ready before what is missing is said, and
    again. `receiving_s`: how long files may pause on their way here while a run ends. `leaving_s`: how long tasks that
    were asked to leave may take for it. `stacks_s`: how long the tasks' stacks are waited for. `return_s`: how long a
    restart waits for a sign of a host that was given up.
    """

    failure_grace_s: float = 3.0
    stop_grace_s: float = 8.0
    finish_grace_s: float = 10.0
    settle_s: float = 0.4
    hosts_settle_s: float = 3.0
    overdue_s: float = 10.0
    receiving_s: float = 15.0
    leaving_s: float = 25.0
    stacks_s: float = 2.5
    return_s: float = 5.0
    start_timeout_s: float = 900.0
    contact_timeout_s: float = 30.0
    restart: RestartSpec | None = None
    watchdog: WatchdogSpec = field(default_factory=WatchdogSpec)
    elastic: bool = False

    @classmethod
    def of(cls, job: JobSpec) -> Policy:
        return cls(
            start_timeout_s=job.cluster.start_timeout_s,
            contact_timeout_s=job.cluster.contact_timeout_s,
            restart=job.restart,
            watchdog=job.watchdog,
            elastic=job.elastic is not None,
        )


class Phase(StrEnum):
    """OPENING: hosts are prepared for the first attempt, WAITING: for the next. STOPPING: as `then` has it."""

    OPENING = "opening"
    RUNNING = "running"
    FINISHING = "finishing"
    STOPPING = "stopping"
    WAITING = "waiting"
    ENDED = "ended"


class Then(StrEnum):
    """What follows when all tasks of an attempt are stopped."""

    END = "end"
    RESTART = "restart"


@dataclass(frozen=True)
class TaskState:
    """What is known of one task. `serves`: it never ends by itself, and is stopped when the run's work is done.
    `aside`: it evaluates what the others leave, which do without it if need be; it ends by itself, after them.
    `starts_alone`: once it has failed it is started again by itself, while the others go on.
    `speaks`: it says itself when it is ready and when it is done; a program is ready when it runs, and done when it
    ends with exit code 0. `reach`: what came of trying to connect to it, while it was overdue.
    """

    name: str
    host: str
    serves: bool = False
    aside: bool = False
    starts_alone: bool = False
    speaks: bool = True
    doing: str = "waiting for its host"
    started_at: float = 0.0
    reach: str | None = None
    ready: bool = False
    done: bool = False
    exited: bool = False
    cleared: bool = False
    failure: Mapping[str, Any] | None = None
    """What the task said of its own failure, before it exited."""
    step: int | None = None
    """How many steps it has told of in this attempt, those before it included."""
    pulse_at: float | None = None
    busy: str | None = None
    """What its last pulse said that it is doing: "step", "python" or "serving"."""
    stopped: bool = False
    """It stands still, as SIGSTOP has it."""
    respawn: Failure | None = None
    """Why this task alone is being started again."""
    respawn_at: float = 0.0
    respawned: tuple[float, ...] = ()
    """When that was, of a task aside: it has a count of its own, so that training keeps all of its restarts."""
    given_up: bool = False
    """It has failed, and the others go on without it."""
    told_at: float | None = None
    """When a task aside last told of what it does, or found."""

    @property
    def attends(self) -> bool:
        """Whether it is there for those that train, or for what they leave, and is stopped after them."""
        return self.serves or self.aside

    @property
    def feeds(self) -> bool:
        """Whether it prepares examples, for whoever wants some."""
        return self.name.startswith(("dispatcher:", "data:"))

    @property
    def trains(self) -> bool:
        """Whether it makes the run's steps and tells of them."""
        return self.speaks and not self.attends

    def anew(self, time: float) -> TaskState:
        """The task when it is started, for the first time or again."""
        again = TaskState(self.name, self.host, self.serves, self.aside, self.starts_alone, self.speaks)
        return replace(again, doing="starting", started_at=time, respawned=self.respawned)

    @property
    def may_end(self) -> bool:
        """Whether it may end with exit code 0 at any time: a program that evaluates."""
        return self.name.startswith("evaluator:") and not self.speaks


@dataclass(frozen=True)
class Failure:
    """A task's end that nobody asked for. `cause` False: it looks like what a peer's failure does to the others.

    `time`: when it was known here, `age_s` after it had happened. `step`: how far the task was then.
    """

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
    step: int | None = None
    age_s: float = 0.0

    @property
    def happened_at(self) -> float:
        return self.time - self.age_s

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
class Restart:
    """An attempt that goes on from a checkpoint, if there is one: after `failure`, or None: the first one of a run that
    is resumed. `at`: no tasks start sooner. `before`, `skip_to`: what is known of the checkpoint. `chosen`: it is, and
    `resume` is it, None: none. `sent`: every host has it. `receivers`: those that it is on its way to. `moved_at`: when
    what is awaited of this was begun, or last got on.
    """

    at: float
    failure: Failure | None = None
    counted: bool = False
    before: int | None = None
    skip_to: int | None = None
    choosing: bool = False
    chosen: bool = False
    resume: Resume | None = None
    step: int = 0
    sending: bool = False
    sent: bool = False
    receivers: tuple[str, ...] = ()
    moved_at: float = 0.0


@dataclass(frozen=True)
class Retry:
    """A host that is to be opened again `at` that time. `pause_s`: before the time after. `lost_at`: when it was lost,
    had it been away ever since; it was back at `back_at`.
    """

    at: float
    lost_at: float
    back_at: float | None = None
    pause_s: float = 1.0
    message: str = ""


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
    finishing_since: float | None = None
    """The phase is FINISHING, since then."""
    deadline: float | None = None
    """When the last word asked of the tasks (to finish, to stop) must have been heeded."""
    ticked_at: float | None = None
    heard_at: Mapping[str, float] = field(default_factory=dict)
    """When each host last told of a task."""

    then: Then = Then.END
    attending_last: bool = False
    """Tasks that attend are stopped when the others have ended, which may still need them."""
    leaving: bool = False
    """The tasks end by themselves: they were asked to, by somebody else."""
    stacks_awaited: frozenset[str] = frozenset()
    """Tasks whose stacks are on their way. Nothing is stopped before they are here."""
    stacks_by: float | None = None
    """When they are stopped in any case. None: no stacks were asked for."""

    owing: frozenset[str] = frozenset()
    """Far hosts that may keep back files, since tasks that were stopped there were to be started again."""
    owed: frozenset[str] = frozenset()
    """Those of them that these files are awaited from, after all."""

    restart: Restart | None = None
    past: tuple[Failure, ...] = ()
    """The first failure of each earlier attempt, and why a task alone was started again; the last of them."""
    restarts: tuple[float, ...] = ()
    """When, those that count, since the count was last set back."""
    restarted: int = 0
    """How often in all."""
    before: int | None = None
    skip_to: int | None = None
    """As in Restart, until there is a newer checkpoint."""
    connecting: bool = False
    connected: bool = False
    """The hosts reach each other."""
    retries: Mapping[str, Retry] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    """Hosts that were given up, and whose tasks the others have taken over."""
    returning: frozenset[str] = frozenset()
    """Those of them that may be back."""
    return_by: float = 0.0
    reshaping: bool = False
    too_few: bool = False
    """The run cannot do without the hosts that are missing."""

    started_at: float = 0.0
    """When the attempt's tasks were started."""
    first_step: int = 0
    step: int = 0
    """How far the attempt is, and the furthest that the run was before the last restart, of a single task too."""
    furthest: int = 0
    steps_per_epoch: int = 0
    watch: Watch = field(default_factory=Watch)
    pace: Pace = field(default_factory=Pace)
    stragglers: tuple[Mapping[str, Any], ...] = ()

    def with_task(self, name: str, **changes: Any) -> State:
        return replace(self, tasks={**self.tasks, name: replace(self.tasks[name], **changes)})

    def with_host(self, host: str | None, **changes: Any) -> State:
        """With changes to all tasks of a host, or of all hosts."""
        tasks = {
            name: replace(task, **changes) if host in (None, task.host) else task for name, task in self.tasks.items()
        }
        return replace(self, tasks=tasks)

    @property
    def nothing_runs(self) -> bool:
        """Hosts are being prepared: no task of the attempt to come has been started."""
        return self.phase in (Phase.OPENING, Phase.WAITING)

    @property
    def attending(self) -> tuple[str, ...]:
        """The tasks that attend others, of which there are some."""
        attending = tuple(task.name for task in self.tasks.values() if task.attends)
        return attending if len(attending) < len(self.tasks) else ()

    @property
    def evaluating(self) -> tuple[TaskState, ...]:
        """The tasks aside that have still to end, or to be started again."""
        return tuple(task for task in self.tasks.values() if task.aside and (not task.exited or task.respawn))

    @property
    def first_failure(self) -> Failure | None:
        """The attempt's earliest failure that is not a mere consequence; failing that, the earliest."""
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


Decision = tuple[State, tuple[Action, ...]]
"""What has become of a run, and what is to be done about it."""
