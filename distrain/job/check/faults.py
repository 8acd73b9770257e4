"""What is to happen when something fails."""

from __future__ import annotations

from distrain.job.check.rule import Rule, Sentence, counted
from distrain.job.cluster import divides
from distrain.job.spec import SHARDED, JobSpec


def _elastic_alone(job: JobSpec) -> Sentence:
    if job.elastic is None or job.strategy.name not in ("OneDevice", "Mirrored", "TPU"):
        return None
    return (
        f"elastic is given, and strategy {job.strategy.name} has one worker, which nothing can do without",
        "remove elastic, or choose strategy MultiWorkerMirrored or ParameterServer",
    )


def _elastic_sharded(job: JobSpec) -> Sentence:
    if job.elastic is None or job.strategy.name not in SHARDED:
        return None
    return (
        f"elastic is given, and under strategy {job.strategy.name} every worker holds a part of the weights",
        "remove elastic, or choose strategy MultiWorkerMirrored or ParameterServer",
    )


def _elastic_minimum(job: JobSpec) -> Sentence:
    workers = job.cluster.workers
    if job.elastic is None or job.elastic.min_workers <= workers:
        return None
    number = counted(workers, "worker")
    problem = f"elastic.min_workers is {job.elastic.min_workers}, and the job begins with {number}"
    return problem, f"give {workers} or less, or more cluster.workers"


def _elastic_batch(job: JobSpec) -> Sentence:
    workers = job.cluster.workers
    if job.elastic is None or job.elastic.min_workers >= workers:
        return None
    fewer = range(job.elastic.min_workers, workers)
    if any(divides(job, number) for number in fewer):
        return None
    numbers = f"{fewer[0]}" if len(fewer) == 1 else f"any number from {fewer[0]} to {fewer[-1]}"
    below = next((number for number in range(fewer[0], 0, -1) if divides(job, number)), None)
    return (
        f"elastic.min_workers is {job.elastic.min_workers}, and dataset.batch_size {job.dataset.batch_size} does not "
        f"divide among {numbers} of the {workers} workers",
        (f"give elastic.min_workers {below}, or " if below else "give ") + "a batch size that does",
    )


def _rollback(job: JobSpec) -> Sentence:
    if job.watchdog.nan != "rollback":
        return None
    if job.checkpoint is None:
        return (
            "watchdog.nan is rollback, and checkpoint is false, so that there is nothing to go back to",
            "have checkpoints written, or choose stop or ignore",
        )
    if job.restart is None:
        return (
            "watchdog.nan is rollback, which is a restart, and restart is false",
            "allow restarts, or choose stop or ignore",
        )
    return None


RULES = (Rule(("elastic.min_workers", "elastic", "cluster.workers", "cluster.hosts"), _elastic_minimum),)

TRAINING_RULES = (
    Rule(("elastic", "strategy.name"), _elastic_alone),
    Rule(("elastic", "strategy.name"), _elastic_sharded),
    Rule(("elastic.min_workers", "elastic", "dataset.batch_size", "cluster", "strategy.name"), _elastic_batch),
    Rule(("watchdog.nan", "checkpoint", "restart"), _rollback),
)
