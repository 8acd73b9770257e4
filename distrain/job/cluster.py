"""Which tasks a job has, and on which host each of them runs.

Owns roles, tasks, hosts, slots and placement. Does not know addresses: `plan` gets those once hosts have given ports.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain

from distrain.errors import UsageError
from distrain.job.spec import HostSpec, JobSpec


class Role(StrEnum):
    """What a task is for, in the order in which plans list them."""

    CHIEF = "chief"
    WORKER = "worker"
    PS = "ps"
    EVALUATOR = "evaluator"
    DISPATCHER = "dispatcher"
    DATA = "data"


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
    """A machine that runs tasks, and how it is reached. What is None was not given.

    `name`: its ssh destination. `transport`: "local" or "ssh". The rest is as in HostSpec.
    """

    name: str
    transport: str
    port: int | None = None
    key: str | None = None
    python: str | None = None
    address: str | None = None


LOCAL = Host("local", "local")
"""The machine where the user types."""


@dataclass(frozen=True)
class Placement:
    """A task on a host; `slot` counts the host's tasks from 0."""

    task: Task
    host: Host
    slot: int


def tasks_of(job: JobSpec) -> tuple[Task, ...]:
    """Every task of the job, in plan order."""
    cluster = job.cluster
    numbers: Mapping[Role, int] = {
        Role.CHIEF: cluster.chief if job.program is not None else int(_chief_is_implied(job)),
        Role.WORKER: cluster.workers,
        Role.PS: cluster.ps,
        Role.EVALUATOR: cluster.evaluators,
        Role.DISPATCHER: int(cluster.data_workers > 0),
        Role.DATA: cluster.data_workers,
    }
    return tuple(Task(role, index) for role in Role for index in range(numbers[role]))


def chief_of(tasks: Sequence[Task]) -> Task:
    """The task that writes checkpoints and the model: the chief, else the first worker."""
    return min(tasks)


def computes(job: JobSpec, task: Task) -> bool:
    """Whether the task needs cores: parameter servers hold variables, their chief only hands out steps, and so does a
    dispatcher with examples.
    """
    idle = task.role in (Role.PS, Role.DISPATCHER) or (task.role is Role.CHIEF and _chief_is_implied(job))
    return not idle


def in_cluster(task: Task) -> bool:
    """Whether the task trains together with others, or holds their variables: one of those that TensorFlow connects."""
    return task.role in (Role.CHIEF, Role.WORKER, Role.PS)


def prepares(task: Task) -> bool:
    """Whether the task is one of tf.data's service."""
    return task.role in (Role.DISPATCHER, Role.DATA)


def evaluates(job: JobSpec, task: Task) -> bool:
    """Whether the task looks at what distrain's own training leaves, which does without it if need be."""
    return job.program is None and task.role is Role.EVALUATOR


def serves(job: JobSpec, task: Task) -> bool:
    """Whether the task never ends by itself, and is stopped when the run's work is done."""
    if job.program is None:
        called = job.strategy.name == "ParameterServer" and task.role in (Role.WORKER, Role.PS)
        return called or prepares(task)
    # A program with a chief and parameter servers trains as TensorFlow's ParameterServerStrategy has it: its workers
    # wait for what the chief sends them.
    waiting = job.cluster.chief and job.cluster.ps
    return task.role in (Role.PS, Role.EVALUATOR) or (task.role is Role.WORKER and bool(waiting))


def starts_alone(job: JobSpec, task: Task) -> bool:
    """Whether the task, once it has failed, is started again by itself, while the others go on."""
    if job.program is not None:
        return False
    return evaluates(job, task) or (serves(job, task) and task.role is not Role.PS)


def needs_address(job: JobSpec, task: Task) -> bool:
    """Whether there is a port for this task: always in a program; one that trains alone needs none, nor does who
    evaluates what it leaves.
    """
    if job.program is not None or prepares(task):
        return True
    return in_cluster(task) and sum(in_cluster(other) for other in tasks_of(job)) > 1


def hosts_of(job: JobSpec) -> tuple[Host, ...]:
    """Each host of the job once, in the order of first mention; LOCAL alone when none is named."""
    offers: dict[str, list[HostSpec]] = {}
    for offer in job.cluster.hosts:
        offers.setdefault(offer.name, []).append(offer)
    return tuple(_host(name, same) for name, same in offers.items()) or (LOCAL,)


def _host(name: str, offers: list[HostSpec]) -> Host:
    """One host out of all its offers: each may give what another leaves out."""
    told = {
        key: next((getattr(offer, key) for offer in offers if getattr(offer, key) is not None), None)
        for key in ("port", "key", "python", "address")
    }
    return Host(name, "local" if name == LOCAL.name else "ssh", **told)


def place(job: JobSpec) -> tuple[Placement, ...]:
    """Every task of the job on a slot: each role's tasks fill the offers that name the role, then those of any role,
    in the order of the offers. What distrain adds by itself needs no slot where no offer names it: the chief of a
    ParameterServer job runs on the first host then, an evaluator and the dispatcher of data workers beside the chief.

    Raises:
        UsageError: the hosts have too few slots.
    """
    filling = _fill(job)
    if filling.left:
        raise UsageError("; ".join(shortage(job, filling.left)))
    return tuple(filling.placements)


def without_slot(job: JobSpec) -> tuple[Task, ...]:
    """The tasks that no host has room for."""
    return tuple(_fill(job).left)


def shortage(job: JobSpec, left: Sequence[Task]) -> tuple[str, str]:
    """What is wrong when the tasks `left` have no slot, and what to do about it."""
    offers = [
        f"{offer.name}: {offer.slots}" + (f" for {' and '.join(offer.roles)}" if offer.roles else "")
        for offer in job.cluster.hosts
    ]
    return (
        f"the job has {_counted(tasks_of(job))}, and the hosts have no slot for {_some([str(task) for task in left])} "
        f"({_some(offers, 8)})",
        "give more hosts or slots, or ask for fewer tasks",
    )


def numbers_offered(job: JobSpec) -> Mapping[str, int]:
    """How many tasks beside workers a job has that does not say, by the keys of ClusterSpec: one for each slot that is
    for that role alone; under ParameterServer at least one parameter server.
    """
    offers = job.cluster.hosts
    alone = {role: sum(offer.slots for offer in offers if offer.roles == (role.value,)) for role in Role}
    if job.program is not None:
        return {"ps": alone[Role.PS], "chief": min(alone[Role.CHIEF], 1), "evaluators": alone[Role.EVALUATOR]}
    servers = {"ps": max(alone[Role.PS], 1)} if _chief_is_implied(job) else {}
    return {**servers, "evaluators": min(alone[Role.EVALUATOR], 1), "data_workers": alone[Role.DATA]}


def room_for_workers(job: JobSpec) -> int:
    """The slots that workers may take, less those that the job's other tasks take."""
    filling = _fill(replace(job, cluster=replace(job.cluster, workers=0)))
    admitting = [number for number, offer in enumerate(job.cluster.hosts) if not offer.roles or "worker" in offer.roles]
    return sum(filling.free[number] for number in admitting)


def short_of_ports(job: JobSpec) -> tuple[str, int] | None:
    """The host that has the most tasks that need a port, and their number, where `cluster.ports` lists fewer. Every
    task has a slot.
    """
    addressed = Counter(placement.host.name for placement in place(job) if needs_address(job, placement.task))
    if not job.cluster.ports or not addressed:
        return None
    ((host, tasks),) = addressed.most_common(1)
    return (host, tasks) if tasks > len(job.cluster.ports) else None


def divides(job: JobSpec, workers: int) -> bool:
    """Whether so many workers can share the job's batches. Those of a program need not; how many cores a TPU has is
    known where it is.
    """
    if job.program is not None or job.strategy.name == "TPU":
        return True
    replicas = replace(job, cluster=replace(job.cluster, workers=workers)).replicas
    return job.dataset.batch_size % replicas == 0


def shrunk(job: JobSpec, gone: frozenset[str]) -> JobSpec | None:
    """The job without the hosts named `gone`: with as many of its workers as fit on those that are left and can share
    its batches. All its other tasks stay. None where that is not possible, or the job does not want it.
    """
    left = tuple(offer for offer in job.cluster.hosts if offer.name not in gone)
    if job.elastic is None or not left:
        return None
    for workers in range(job.cluster.workers, job.elastic.min_workers - 1, -1):
        smaller = replace(job, cluster=replace(job.cluster, workers=workers, hosts=left))
        if divides(smaller, workers) and not without_slot(smaller) and short_of_ports(smaller) is None:
            return smaller
    return None


@dataclass
class _Filling:
    """Slots as they are taken: what is placed, what found no slot, and what is free of each offer."""

    placements: list[Placement]
    left: list[Task]
    free: list[int]


def _fill(job: JobSpec) -> _Filling:
    hosts = {host.name: host for host in hosts_of(job)}
    offers = job.cluster.hosts
    filling = _Filling([], [], [offer.slots for offer in offers])
    running = dict.fromkeys(hosts, 0)
    naming = {role: [number for number, offer in enumerate(offers) if role in offer.roles] for role in Role}
    for_any = [number for number, offer in enumerate(offers) if not offer.roles]
    for task in tasks_of(job):
        if not offers or (_is_added(job, task) and not naming[task.role]):
            # The chief is the first of the tasks.
            name = filling.placements[0].host.name if filling.placements else next(iter(hosts))
        else:
            number = next((number for number in chain(naming[task.role], for_any) if filling.free[number]), None)
            if number is None:
                filling.left.append(task)
                continue
            filling.free[number] -= 1
            name = offers[number].name
        filling.placements.append(Placement(task, hosts[name], running[name]))
        running[name] += 1
    return filling


def _is_added(job: JobSpec, task: Task) -> bool:
    """Whether the task is one that distrain's own training adds to those that were asked for."""
    if task.role is Role.CHIEF:
        return _chief_is_implied(job)
    return task.role is Role.DISPATCHER or evaluates(job, task)


def _chief_is_implied(job: JobSpec) -> bool:
    return job.program is None and job.strategy.name == "ParameterServer"


def _counted(tasks: Sequence[Task]) -> str:
    by_role = [(role, sum(task.role is role for task in tasks)) for role in Role]
    parts = ", ".join(f"{count} {_plural(role, count)}" for role, count in by_role if count)
    return f"{len(tasks)} {_plural('task', len(tasks))} ({parts})"


def _plural(noun: str, count: int) -> str:
    if noun == Role.DATA:
        noun = "data worker"
    return noun if count == 1 or noun == Role.PS else f"{noun}s"


def _some(words: Sequence[str], most: int = 3) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
