"""What a task is told about its cluster through its environment: one table of dialects, a small function each.

Pure: from the placements and addresses to names and values. Starting tasks with them is the agent's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from distrain.job.cluster import Placement, Role, Task, chief_of, computes, in_cluster, needs_address
from distrain.job.spec import JobSpec


@dataclass(frozen=True)
class Seat:
    """One task among all, `placements` being in plan order: what every dialect speaks of. `gpus`: how many its host
    has. `output_dir`: where on its host a program leaves what is to be kept.
    """

    job: JobSpec
    placements: tuple[Placement, ...]
    addresses: Mapping[Task, str]
    task: Task
    run: str
    attempt: int
    gpus: int
    output_dir: str

    @cached_property
    def host(self) -> str:
        """The name of the task's host."""
        return self._hosts[self.task]

    @cached_property
    def ranked(self) -> tuple[Task, ...]:
        """The tasks that train together, chief and workers; one's place among them is its rank."""
        return tuple(p.task for p in self.placements if p.task.role in (Role.CHIEF, Role.WORKER))

    @cached_property
    def neighbours(self) -> tuple[Task, ...]:
        """The ranked tasks on the task's host."""
        return tuple(task for task in self.ranked if self._hosts[task] == self.host)

    @cached_property
    def ranked_hosts(self) -> tuple[str, ...]:
        """The hosts of the ranked tasks, each once, in the order of ranks."""
        return tuple(dict.fromkeys(self._hosts[task] for task in self.ranked))

    @cached_property
    def _hosts(self) -> Mapping[Task, str]:
        return {placement.task: placement.host.name for placement in self.placements}


def environment(seat: Seat) -> dict[str, str]:
    """The variables of every dialect that the job speaks, for one task. The job's own `env` is not among them."""
    dialects = TRAINING_DIALECTS if seat.job.program is None else PROGRAM_DIALECTS
    return {name: value for dialect in dialects.values() for name, value in dialect(seat).items()}


def preload_environment(job: JobSpec) -> dict[str, str]:
    """What is the same for all tasks, and must be set before distrain's worker imports TensorFlow.

    The job's `env` comes last: it may overrule everything but what it is refused.
    """
    if job.program is not None:
        return {"PYTHONUNBUFFERED": "1", **job.env}
    return {
        "PYTHONUNBUFFERED": "1",
        # OpenBLAS starts threads at import, and a process that has threads cannot be forked safely.
        "OPENBLAS_NUM_THREADS": "1",
        **job.env,
        "KERAS_BACKEND": "tensorflow",
    }


def _tensorflow(seat: Seat) -> dict[str, str]:
    """TF_CONFIG. None for a task without peers, which TensorFlow then lets train alone. A program's evaluator is told
    that it is one, beside a cluster that does not name it.
    """
    members = [p.task for p in seat.placements if in_cluster(p.task)]
    if len(members) < 2 if seat.task in members else seat.job.program is None:
        return {}
    cluster: dict[str, list[str]] = {}
    for task in members:
        cluster.setdefault(task.role.value, []).append(seat.addresses[task])
    config = {"cluster": cluster, "task": {"type": seat.task.role.value, "index": seat.task.index}}
    return {"TF_CONFIG": json.dumps(config)}


def _distrain(seat: Seat) -> dict[str, str]:
    """Everything, for programs that know no other dialect. Ranks as in `_torch`; parameter servers and evaluators have
    none.
    """
    told = {
        "RUN": seat.run,
        "ATTEMPT": str(seat.attempt),
        "TASK": str(seat.task),
        "ROLE": seat.task.role.value,
        "INDEX": str(seat.task.index),
        "HOST": seat.host,
        "CHIEF": "1" if seat.task == chief_of(seat.ranked) else "0",
    }
    if seat.task in seat.ranked:
        told |= {
            "RANK": str(seat.ranked.index(seat.task)),
            "WORLD_SIZE": str(len(seat.ranked)),
            "LOCAL_RANK": str(seat.neighbours.index(seat.task)),
            "LOCAL_WORLD_SIZE": str(len(seat.neighbours)),
        }
    if needs_address(seat.job, seat.task):
        known = {str(p.task): seat.addresses[p.task] for p in seat.placements if p.task in seat.addresses}
        told |= {"ADDRESS": seat.addresses[seat.task], "ADDRESSES": json.dumps(known)}
    if seat.job.program is not None:
        told["OUTPUT_DIR"] = seat.output_dir
    return {f"DISTRAIN_{name}": value for name, value in told.items()}


def _cuda(seat: Seat) -> dict[str, str]:
    """An equal slice of the host's GPUs for each task that trains, one that these leave for who evaluates, none for the
    others.

    With fewer GPUs than such tasks nobody gets one: a step takes as long as its slowest worker, and two processes
    on one GPU run each other out of memory. Nothing is set on a host without GPUs, or when the job sets it.
    """
    if seat.gpus == 0 or "CUDA_VISIBLE_DEVICES" in seat.job.env:
        return {}
    training = [task for task in seat.neighbours if computes(seat.job, task)]
    share = min(seat.gpus // len(training), seat.job.cluster.devices_per_worker) if training else 0
    mine = range(0)
    if seat.task in training:
        first = training.index(seat.task) * share
        mine = range(first, first + share)
    elif seat.task.role is Role.EVALUATOR:
        mine = range(seat.gpus)[len(training) * share :][:1]
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, mine)) or "-1"}


def _torch(seat: Seat) -> dict[str, str]:
    """The names that torchrun gives, for `torch.distributed`'s `env://`: rank 0 listens on its task's own port."""
    if seat.task not in seat.ranked:
        return {}
    address, port = _split(seat.addresses[seat.ranked[0]])
    rank, size = str(seat.ranked.index(seat.task)), str(len(seat.ranked))
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": str(seat.neighbours.index(seat.task)),
        "LOCAL_WORLD_SIZE": str(len(seat.neighbours)),
        "GROUP_RANK": str(seat.ranked_hosts.index(seat.host)),
        "GROUP_WORLD_SIZE": str(len(seat.ranked_hosts)),
        "ROLE_NAME": "default",
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": size,
        "TORCHELASTIC_RUN_ID": seat.run,
        "TORCHELASTIC_RESTART_COUNT": str(seat.attempt - 1),
        "TORCHELASTIC_MAX_RESTARTS": str(seat.job.restart.max if seat.job.restart else 0),
        # Else an outer torchrun's "True" would have rank 0 look for a store that nobody has opened.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def _split(address: str) -> tuple[str, str]:
    """Host and port of `host:port`; an IPv6 host loses its brackets."""
    host, _, port = address.removeprefix("[").partition("]:" if address.startswith("[") else ":")
    return host, port


def _keras(seat: Seat) -> dict[str, str]:
    """For `keras.distribution.initialize()`, on Keras's JAX backend."""
    if seat.task not in seat.ranked:
        return {}
    return {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join(seat.addresses[task] for task in seat.ranked),
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(len(seat.ranked)),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(seat.ranked.index(seat.task)),
    }


Dialect = Callable[[Seat], dict[str, str]]

TRAINING_DIALECTS: Mapping[str, Dialect] = {
    "tensorflow": _tensorflow,
    "distrain": _distrain,
    "cuda": _cuda,
}
"""What distrain's own training is told."""

PROGRAM_DIALECTS: Mapping[str, Dialect] = {
    "tensorflow": _tensorflow,
    "torch": _torch,
    "keras": _keras,
    "distrain": _distrain,
}
"""What a program of the user's is told: all of it, as none of it hurts those who do not read it."""
