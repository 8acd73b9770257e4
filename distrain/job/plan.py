"""A job whose addresses are known, as the exact start of every task: host, command, environment, assignment.

Pure, and shown as it is by a dry run. Nothing here starts, connects or writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain.job.cluster import LOCAL, Host, Placement, Task, chief_of, computes, needs_address
from distrain.job.dialects import Seat, environment, preload_environment
from distrain.job.masking import masked
from distrain.job.spec import JobSpec


@dataclass(frozen=True)
class TaskPlan:
    """One task's start. `assignment` is what distrain's worker reads, as JSON, on its standard input.

    `env` is what is set beyond the environment that the agent has itself. `address` is `host:port`, None for a task
    that nobody connects to. `warm`: fork it from the preloaded process.
    """

    task: Task
    host: str
    slot: int
    address: str | None
    argv: tuple[str, ...]
    warm: bool
    env: Mapping[str, str]
    cwd: str
    assignment: Mapping[str, Any]

    def stdin(self) -> bytes:
        """What the task reads on its standard input."""
        return json.dumps(self.assignment).encode()


@dataclass(frozen=True)
class Plan:
    """Every task of one attempt, in plan order."""

    attempt: int
    tasks: tuple[TaskPlan, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, secrets masked; each task's TF_CONFIG as an object beside its environment."""
        return {
            "format": 1,
            "attempt": self.attempt,
            "tasks": [_task_json(task) for task in self.tasks],
            "job": masked(self.tasks[0].assignment["job"]),
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
        "chief": plan.assignment["chief"],
        "argv": list(plan.argv),
        "warm": plan.warm,
        "cwd": plan.cwd,
        "threads": plan.assignment["threads"],
        "TF_CONFIG": json.loads(tf_config) if tf_config is not None else None,
        "env": masked(env),
    }


def make_plan(
    job: JobSpec,
    placements: tuple[Placement, ...],
    addresses: Mapping[Task, str],
    *,
    run: str,
    run_dir: str,
    attempt: int,
    python: str,
    cwd: str,
    import_paths: tuple[str, ...],
    cores: Mapping[str, int],
    gpus: Mapping[str, int],
) -> Plan:
    """The start of every task of the job.

    `addresses` (`host:port`) holds each task that `needs_address`; `cores` and `gpus` are numbers by the host's name.
    """
    chief = chief_of([placement.task for placement in placements])
    job_json = job.to_json()
    tasks = []
    for placement in sorted(placements, key=lambda placement: placement.task):
        task, host = placement.task, placement.host.name
        seat = Seat(job, placements, addresses, task, run, attempt, gpus)
        assignment = {
            "format": 1,
            "task": str(task),
            "chief": task == chief,
            "run": run,
            "run_dir": run_dir,
            "attempt": attempt,
            "threads": _threads(job, placements, placement, cores[host]),
            "one_host": len({other.host for other in placements}) == 1,
            "import_paths": list(import_paths),
            "job": job_json,
        }
        tasks.append(
            TaskPlan(
                task=task,
                host=host,
                slot=placement.slot,
                address=addresses[task] if needs_address(job, task) else None,
                argv=(python, "-m", "distrain.worker"),
                warm=job.warm,
                env={**preload_environment(job), **environment(seat)},
                cwd=cwd,
                assignment=assignment,
            )
        )
    return Plan(attempt, tuple(tasks))


def _threads(job: JobSpec, placements: tuple[Placement, ...], placement: Placement, cores: int) -> int:
    """Threads that one task computes with: what the job says, else an equal share of the host's cores."""
    if not computes(job, placement.task):
        return 1
    if job.cluster.threads_per_worker is not None:
        return job.cluster.threads_per_worker
    sharing = sum(other.host == placement.host and computes(job, other.task) for other in placements)
    return max(1, cores // sharing)


def placeholder_addresses(job: JobSpec, placements: tuple[Placement, ...]) -> Mapping[Task, str]:
    """Addresses for a dry run, which reserves no ports: `127.0.0.1:<port of worker:0>`."""
    return {
        placement.task: f"{_machine(placement.host)}:<port of {placement.task}>"
        for placement in placements
        if needs_address(job, placement.task)
    }


def _machine(host: Host) -> str:
    return "127.0.0.1" if host == LOCAL else host.name
