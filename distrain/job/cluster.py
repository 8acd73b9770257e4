"""Which tasks a job has, and on which host each of them runs.

Owns roles, tasks, hosts, slots and placement. Does not know addresses: `plan` gets those once hosts have given ports.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from distrain.errors import UsageError
from distrain.job.spec import JobSpec


class Role(StrEnum):
    """What a task is for, in the order in which plans list them."""

    CHIEF = "chief"
    WORKER = "worker"
    PS = "ps"
    EVALUATOR = "evaluator"


_ORDER = tuple(Role)


@functools.total_ordering
@dataclass(frozen=True)
class Task:
    """A role and an index, written `worker:1`. Sorts in plan order."""

    role: Role
    index: int

    def __str__(self) -> str:
        return f"{self.role}:{self.index}"

    def __lt__(self, other: Task) -> bool:
        return (_ORDER.index(self.role), self.index) < (_ORDER.index(other.role), other.index)


@dataclass(frozen=True)
class Host:
    """A machine with room for `slots` tasks; None: as many as are asked for."""

    name: str
    slots: int | None


LOCAL = Host("local", None)
"""The machine where the user types."""


@dataclass(frozen=True)
class Placement:
    """A task on a host; `slot` counts the host's tasks from 0."""

    task: Task
    host: Host
    slot: int


def tasks_of(job: JobSpec) -> tuple[Task, ...]:
    """Every task of the job, in plan order."""
    workers = tuple(Task(Role.WORKER, index) for index in range(job.cluster.workers))
    if job.strategy.name == "ParameterServer":
        servers = tuple(Task(Role.PS, index) for index in range(job.cluster.ps))
        return (Task(Role.CHIEF, 0), *workers, *servers)
    return workers


def chief_of(tasks: Sequence[Task]) -> Task:
    """The task that writes checkpoints and the model: the chief, else the first worker."""
    return min(tasks)


def computes(job: JobSpec, task: Task) -> bool:
    """Whether the task trains: parameter servers hold variables, and their chief only hands out steps."""
    return task.role is not Role.PS and not (task.role is Role.CHIEF and job.strategy.name == "ParameterServer")


def needs_address(job: JobSpec, task: Task) -> bool:
    """Whether other tasks connect to this one; a job of one task needs no port."""
    return task.role is not Role.EVALUATOR and len(tasks_of(job)) > 1


def place(job: JobSpec, hosts: tuple[Host, ...]) -> tuple[Placement, ...]:
    """Every task of the job on a slot: hosts are filled one after the other, in their order.

    Raises:
        UsageError: the hosts have fewer slots than the job has tasks.
    """
    tasks = tasks_of(job)
    placements: list[Placement] = []
    for host in hosts:
        left = tasks[len(placements) :]
        room = left if host.slots is None else left[: host.slots]
        placements += [Placement(task, host, slot) for slot, task in enumerate(room)]
    if len(placements) < len(tasks):
        slots = ", ".join(f"{host.name}: {host.slots}" for host in hosts) or "there are no hosts"
        raise UsageError(
            f"the job has {_counted(tasks)}, and the hosts have {len(placements)} {_plural('slot', len(placements))} "
            f"({slots}); lower cluster.workers, or give more hosts or slots"
        )
    return tuple(placements)


def _counted(tasks: Sequence[Task]) -> str:
    by_role = [(role, sum(task.role is role for task in tasks)) for role in Role]
    parts = ", ".join(f"{count} {_plural(role, count)}" for role, count in by_role if count)
    return f"{len(tasks)} {_plural('task', len(tasks))} ({parts})"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 or noun == Role.PS else f"{noun}s"
