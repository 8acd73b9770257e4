"""A job whose addresses are known, as the exact start of every task: host, command, environment, assignment.

Pure, and shown as it is by a dry run. Nothing here starts, connects or writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain.job.cluster import (
    Host,
    Placement,
    Role,
    Task,
    chief_of,
    computes,
    hosts_of,
    in_cluster,
    needs_address,
)
from distrain.job.dialects import Seat, environment, preload_environment
from distrain.job.masking import masked, masked_arguments, masked_job
from distrain.job.spec import JobSpec, ProgramSpec


@dataclass(frozen=True)
class HostFacts:
    """What a plan must know of one host: the tasks' interpreter, where they start, what they see as the run directory,
    where what they leave is collected from, where the run's checkpoints are, where the tasks' imports are looked for,
    and how much it has to compute with.
    """

    python: str
    cwd: str
    run_dir: str
    output_dir: str
    checkpoints: str
    import_paths: tuple[str, ...]
    cores: int
    gpus: int


@dataclass(frozen=True)
class Resume:
    """What an attempt goes on from: the checkpoint called `name` (`step-00000200`), which is on every host that has
    tasks. `skip_to`: the step to go on with where that is not the checkpoint's own.
    """

    name: str
    skip_to: int | None = None


@dataclass(frozen=True)
class TaskPlan:
    """One task's start. `assignment` is what distrain's worker reads, as JSON, on its standard input; None for a
    program.

    `env` is what is set beyond the environment that the agent has itself. `address` is `host:port`, None for a task
    that nobody connects to. `warm`: fork it from the preloaded process.
    """

    task: Task
    host: str
    slot: int
    address: str | None
    chief: bool
    argv: tuple[str, ...]
    warm: bool
    env: Mapping[str, str]
    cwd: str
    assignment: Mapping[str, Any] | None

    def stdin(self) -> bytes:
        """What the task reads on its standard input."""
        return b"" if self.assignment is None else json.dumps(self.assignment).encode()


@dataclass(frozen=True)
class Plan:
    """Every task of one attempt, in plan order."""

    attempt: int
    job: JobSpec
    tasks: tuple[TaskPlan, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, secrets masked; each task's TF_CONFIG as an object beside its environment."""
        return {
            "format": 1,
            "attempt": self.attempt,
            "tasks": [_task_json(task) for task in self.tasks],
            "job": masked_job(self.job),
        }


def _task_json(plan: TaskPlan) -> dict[str, Any]:
    env = dict(plan.env)
    tf_config = env.pop("TF_CONFIG", None)
    return {
        "task": str(plan.task),
        "role": plan.task.role.value,
        "index": plan.task.index,
        "host": plan.host,
        "slot": plan.slot,
        "address": plan.address,
        "chief": plan.chief,
        "argv": masked_arguments(plan.argv),
        "warm": plan.warm,
        "cwd": plan.cwd,
        "threads": None if plan.assignment is None else plan.assignment["threads"],
        "TF_CONFIG": json.loads(tf_config) if tf_config is not None else None,
        "env": masked(env),
    }


def make_plan(
    job: JobSpec,
    placements: tuple[Placement, ...],
    addresses: Mapping[Task, str],
    *,
    run: str,
    attempt: int,
    facts: Mapping[str, HostFacts],
    resume: Resume | None = None,
) -> Plan:
    """The start of every task of the job. `resume`: what it goes on from, None: from the beginning.

    `addresses` (`host:port`, an IPv6 host in brackets) holds each task that `needs_address`; `facts` is by the host's
    name.
    """
    placements = tuple(sorted(placements, key=lambda placement: placement.task))
    chief = chief_of([placement.task for placement in placements])
    job_json = job.to_json()
    together = {placement.host for placement in placements if in_cluster(placement.task)}
    data_service = _data_service(placements, addresses)
    tasks = []
    for placement in placements:
        task, host = placement.task, placement.host.name
        there = facts[host]
        checkpoints = _checkpoints(job, run, there)
        assignment = {
            "format": 1,
            "task": str(task),
            "chief": task == chief,
            "run": run,
            "run_dir": there.run_dir,
            "attempt": attempt,
            "threads": _threads(job, placements, placement, there.cores),
            "one_host": len(together) == 1,
            "import_paths": list(there.import_paths),
            "data_service": data_service,
            "checkpoints": checkpoints if job.checkpoint is not None else None,
            "resume": resume and {"path": f"{checkpoints}/{resume.name}", "skip_to": resume.skip_to},
            "job": job_json,
        }
        seat = Seat(job, placements, addresses, task, run, attempt, there.gpus, there.output_dir)
        tasks.append(
            TaskPlan(
                task=task,
                host=host,
                slot=placement.slot,
                address=addresses[task] if needs_address(job, task) else None,
                chief=task == chief,
                argv=_argv(job.program, there.python),
                warm=job.starts_warm,
                env={**environment(seat), **preload_environment(job)},
                cwd=there.cwd,
                assignment=assignment if job.program is None else None,
            )
        )
    return Plan(attempt, job, tuple(tasks))


def _data_service(placements: tuple[Placement, ...], addresses: Mapping[Task, str]) -> Mapping[str, Any] | None:
    """Where examples are prepared; None: every task prepares its own."""
    workers = [addresses[placement.task] for placement in placements if placement.task.role is Role.DATA]
    return {"dispatcher": addresses[Task(Role.DISPATCHER, 0)], "workers": workers} if workers else None


def _checkpoints(job: JobSpec, run: str, there: HostFacts) -> str:
    """The folder of the run's checkpoints on a host."""
    if job.checkpoint is None or job.checkpoint.path is None:
        return there.checkpoints
    return f"{job.checkpoint.path}/{run}"


def _argv(program: ProgramSpec | None, python: str) -> tuple[str, ...]:
    if program is None:
        return (python, "-m", "distrain.worker")
    if not program.is_script:
        return program.argv
    options = () if program.keras_repair else ("--no-keras-repair",)
    return (python, "-m", "distrain.worker.script", *options, *program.argv)


def _threads(job: JobSpec, placements: tuple[Placement, ...], placement: Placement, cores: int) -> int:
    """Threads that one task computes with: what the job says, else an equal share of the host's cores."""
    if not computes(job, placement.task):
        return 1
    if job.cluster.threads_per_worker is not None:
        return job.cluster.threads_per_worker
    sharing = sum(other.host == placement.host and computes(job, other.task) for other in placements)
    return max(1, cores // sharing)


def placeholder_addresses(job: JobSpec, placements: tuple[Placement, ...]) -> Mapping[Task, str]:
    """Addresses for a dry run, which reaches no host and reserves no port: `127.0.0.1:<port of worker:0>`."""
    alone = all(host.transport == "local" for host in hosts_of(job))
    return {
        placement.task: f"{_machine(placement.host, alone=alone)}:<port of {placement.task}>"
        for placement in placements
        if needs_address(job, placement.task)
    }


def _machine(host: Host, *, alone: bool) -> str:
    if host.address is None and host.transport == "local":
        return "127.0.0.1" if alone else "<address of this machine>"
    name = host.address or host.name.rpartition("@")[2]
    return f"[{name}]" if ":" in name else name
