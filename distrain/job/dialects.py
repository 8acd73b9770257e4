"""What a task is told about its cluster through its environment: one table of dialects, a small function each.

Pure: from the placements and addresses to names and values. Starting tasks with them is the agent's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distrain.job.cluster import Placement, Role, Task, computes, needs_address
from distrain.job.spec import JobSpec


@dataclass(frozen=True)
class Seat:
    """One task among all: what every dialect speaks of. `gpus`: how many each host has, by its name."""

    job: JobSpec
    placements: tuple[Placement, ...]
    addresses: Mapping[Task, str]
    task: Task
    run: str
    attempt: int
    gpus: Mapping[str, int]


def environment(seat: Seat) -> dict[str, str]:
    """The variables of every dialect for one task. The job's own `env` is not among them."""
    return {name: value for dialect in DIALECTS.values() for name, value in dialect(seat).items()}


def preload_environment(job: JobSpec) -> dict[str, str]:
    """What must be set before TensorFlow is imported, and so is the same for all tasks of a host.

    The job's `env` comes last: it may overrule everything but what it is refused.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        # OpenBLAS starts threads at import, and a process that has threads cannot be forked safely.
        "OPENBLAS_NUM_THREADS": "1",
        **job.env,
        "KERAS_BACKEND": "tensorflow",
    }


def _tensorflow(seat: Seat) -> dict[str, str]:
    """TF_CONFIG. None for a task without an address: TensorFlow then trains alone, or evaluates beside the others."""
    if not needs_address(seat.job, seat.task):
        return {}
    cluster: dict[str, list[str]] = {}
    for task in sorted(placement.task for placement in seat.placements):
        if task.role is not Role.EVALUATOR:
            cluster.setdefault(task.role.value, []).append(seat.addresses[task])
    config = {"cluster": cluster, "task": {"type": seat.task.role.value, "index": seat.task.index}}
    return {"TF_CONFIG": json.dumps(config)}


def _distrain(seat: Seat) -> dict[str, str]:
    return {
        "DISTRAIN_RUN": seat.run,
        "DISTRAIN_ATTEMPT": str(seat.attempt),
        "DISTRAIN_TASK": str(seat.task),
        "DISTRAIN_ROLE": seat.task.role.value,
        "DISTRAIN_INDEX": str(seat.task.index),
    }


def _cuda(seat: Seat) -> dict[str, str]:
    """An equal slice of the host's GPUs for each task that computes, none for the others.

    With fewer GPUs than such tasks nobody gets one: a step takes as long as its slowest worker, and two processes
    on one GPU run each other out of memory. Nothing is set on a host without GPUs, or when the job sets it.
    """
    host = next(placement.host for placement in seat.placements if placement.task == seat.task)
    gpus = seat.gpus.get(host.name, 0)
    if gpus == 0 or "CUDA_VISIBLE_DEVICES" in seat.job.env:
        return {}
    if not computes(seat.job, seat.task):
        return {"CUDA_VISIBLE_DEVICES": "-1"}
    computing = [
        placement.task for placement in seat.placements if placement.host == host and computes(seat.job, placement.task)
    ]
    share = min(gpus // len(computing), seat.job.cluster.devices_per_worker)
    first = computing.index(seat.task) * share
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in range(first, first + share)) or "-1"}


DIALECTS: Mapping[str, Callable[[Seat], dict[str, str]]] = {
    "tensorflow": _tensorflow,
    "distrain": _distrain,
    "cuda": _cuda,
}
