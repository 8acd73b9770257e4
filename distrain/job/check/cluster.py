"""Hosts, slots and ports, and the tasks beside those that train."""

from __future__ import annotations

from distrain.job.check.dataset import lacks_validation
from distrain.job.check.rule import Rule, Sentence
from distrain.job.cluster import LOCAL, Role, chief_of, place, short_of_ports, shortage, without_slot
from distrain.job.spec import JobSpec


def _ports(job: JobSpec) -> Sentence:
    short = short_of_ports(job) if not without_slot(job) else None
    if short is None:
        return None
    host, tasks = short
    ports = job.cluster.ports
    listed = "1 port" if len(ports) == 1 else f"{len(ports)} ports"
    where = "" if host == LOCAL.name else f" on {host}"
    return (
        f"cluster.ports lists {listed}, and {tasks} tasks{where} need one each",
        "list more, or remove cluster.ports",
    )


def _offers_differ(job: JobSpec) -> Sentence:
    told: dict[tuple[str, str], object] = {}
    for index, offer in enumerate(job.cluster.hosts):
        for key in ("port", "key", "python", "address"):
            value = getattr(offer, key)
            if value is None:
                continue
            before = told.setdefault((offer.name, key), value)
            if before != value:
                return (
                    f"{offer.name} is named twice, with {key} {before} and {key} {value}",
                    f"give the host one {key}",
                    f"cluster.hosts.{index}.{key}",
                )
    return None


def _local_over_ssh(job: JobSpec) -> Sentence:
    for index, offer in enumerate(job.cluster.hosts):
        for key in ("port", "key"):
            if offer.name == LOCAL.name and getattr(offer, key) is not None:
                return (
                    f"{offer.host} is this machine, which no connection leads to, so that its {key} means nothing",
                    f"remove {key}, or name the machine as ssh knows it",
                    f"cluster.hosts.{index}.{key}",
                )
    return None


def _room(job: JobSpec) -> Sentence:
    left = without_slot(job)
    return shortage(job, left) if left else None


def _chief(job: JobSpec) -> Sentence:
    if job.cluster.chief == 0 or job.strategy.name == "ParameterServer":
        return None
    return (
        f"cluster.chief is 1, and strategy {job.strategy.name} has no chief of its own: worker:0 does its work",
        "leave the chief out, or choose strategy ParameterServer",
    )


def _evaluators(job: JobSpec) -> Sentence:
    if job.cluster.evaluators < 2:
        return None
    return (
        f"cluster.evaluators is {job.cluster.evaluators}, and one evaluator sees every checkpoint",
        "set cluster.evaluators to 1",
    )


def _evaluator_without_checkpoints(job: JobSpec) -> Sentence:
    if job.cluster.evaluators == 0 or job.checkpoint is not None:
        return None
    return (
        "cluster.evaluators is 1, and checkpoint is false: there is nothing that it could evaluate",
        "have checkpoints written, or remove cluster.evaluators",
    )


def _evaluator_without_validation(job: JobSpec) -> Sentence:
    if job.cluster.evaluators == 0:
        return None
    if job.training.validation == 0:
        return (
            "cluster.evaluators is 1, and training.validation is false: an evaluator does nothing but validate",
            "remove one of the two",
        )
    if lacks_validation(job):
        return (
            f"cluster.evaluators is 1, and dataset {job.dataset.name} has no examples for validation",
            "give dataset.args validation_split or validation_path, or remove cluster.evaluators",
        )
    return None


def _evaluator_by_epochs(job: JobSpec) -> Sentence:
    if job.cluster.evaluators == 0 or job.training.validation < 2:
        return None
    every = job.training.validation
    return (
        f"training.validation is {every}, and the evaluator evaluates each checkpoint, whatever its epoch",
        f"remove training.validation, and give checkpoint.every_epochs {every}",
    )


def _evaluator_elsewhere(job: JobSpec) -> Sentence:
    if job.checkpoint is None or job.checkpoint.path is not None or without_slot(job):
        return None
    host_of = {placement.task: placement.host.name for placement in place(job)}
    evaluator = next((task for task in host_of if task.role is Role.EVALUATOR), None)
    chief = chief_of(tuple(host_of))
    if evaluator is None or host_of[evaluator] == host_of[chief]:
        return None
    return (
        f"the evaluator is to run on {host_of[evaluator]}, and the checkpoints are on {host_of[chief]}, where "
        f"{chief} writes them",
        "give checkpoint.path, a folder that both see, or no host the role evaluator: it then runs beside "
        f"{chief}, without a slot",
    )


RULES = (
    Rule(("cluster.hosts",), _offers_differ),
    Rule(("cluster.hosts",), _local_over_ssh),
    Rule(
        (
            "cluster.hosts",
            "cluster.workers",
            "cluster.ps",
            "cluster.chief",
            "cluster.evaluators",
            "cluster.data_workers",
        ),
        _room,
    ),
    Rule(("cluster.ports", "cluster.workers", "cluster.ps", "cluster.hosts", "strategy.name"), _ports),
)

TRAINING_RULES = (
    Rule(("cluster.chief", "strategy.name"), _chief),
    Rule(("cluster.evaluators",), _evaluators),
    Rule(("cluster.evaluators", "checkpoint"), _evaluator_without_checkpoints),
    Rule(("cluster.evaluators", "training.validation", "dataset"), _evaluator_without_validation),
    Rule(("training.validation", "cluster.evaluators"), _evaluator_by_epochs),
    Rule(("cluster.evaluators", "cluster.hosts", "checkpoint", "strategy.name"), _evaluator_elsewhere),
)
