"""What is wrong with a job although each of its values is right: combinations that cannot work.

Pure rules over a JobSpec. `load` runs them and finds the place of each complaint.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from distrain.job.cluster import LOCAL, divides, short_of_ports, shortage, without_slot
from distrain.job.file.keras_names import LOSSES, logged_name
from distrain.job.file.kinds import listed, quoted, suggestion
from distrain.job.spec import DATASETS, JobSpec

INTEGER_LABELS = ("digits", "mnist", "fashion_mnist")

Sentence = tuple[str, ...] | None
"""The problem and its remedy, then the paths, most exact first, of which the first that is given gets the complaint."""


@dataclass(frozen=True)
class Rule:
    """`paths`: the keys that it looks at; the complaint goes to the first that the file gives, those of the sentence
    before these.
    """

    paths: tuple[str, ...]
    judge: Callable[[JobSpec], Sentence]


def _tpu(job: JobSpec) -> Sentence:
    if job.strategy.name != "TPU":
        return None
    return (
        "strategy TPU cannot train with the TensorFlow that distrain uses: the 2.21 wheels hold no TPU kernels",
        "the last release with TPU support is 2.19.1 (tensorflow-tpu; 2.20.0 is its newest package); "
        "here choose another strategy",
    )


def _ps_without_parameter_server(job: JobSpec) -> Sentence:
    if job.cluster.ps == 0 or job.strategy.name in ("ParameterServer", "TPU"):
        return None
    return (
        f"cluster.ps is {job.cluster.ps}, and strategy {job.strategy.name} has no parameter servers",
        "choose strategy ParameterServer, or remove cluster.ps",
    )


def _parameter_server_without_ps(job: JobSpec) -> Sentence:
    if job.cluster.ps > 0 or job.strategy.name != "ParameterServer":
        return None
    return (
        "cluster.ps is 0, and strategy ParameterServer keeps its variables on parameter servers",
        "give cluster.ps 1 or more",
    )


def _one_process(job: JobSpec) -> Sentence:
    if job.cluster.workers == 1 or job.strategy.name not in ("OneDevice", "Mirrored"):
        return None
    return (
        f"cluster.workers is {job.cluster.workers}, and strategy {job.strategy.name} trains in one process",
        "choose strategy MultiWorkerMirrored or ParameterServer for several workers, or set cluster.workers to 1",
    )


def _one_device(job: JobSpec) -> Sentence:
    devices = job.cluster.devices_per_worker
    if devices == 1 or job.strategy.name not in ("OneDevice", "ParameterServer"):
        return None
    problem = f"cluster.devices_per_worker is {devices}, and strategy {job.strategy.name} uses one device per worker"
    if job.strategy.name == "OneDevice":
        return problem, "choose strategy Mirrored, or remove cluster.devices_per_worker"
    return problem, "give more cluster.workers, and remove cluster.devices_per_worker"


def _batch_over_replicas(job: JobSpec) -> Sentence:
    size, replicas = job.dataset.batch_size, job.replicas
    if job.strategy.name not in ("Mirrored", "MultiWorkerMirrored") or divides(job, job.cluster.workers):
        return None
    if job.strategy.name == "Mirrored" and job.cluster.workers > 1:  # its own complaint, and the replicas are unknown
        return None
    below = size - size % replicas
    choices = f"{below} or {below + replicas}" if below else str(replicas)
    shape = f"{job.cluster.workers} workers of {job.cluster.devices_per_worker} devices"
    if job.cluster.devices_per_worker == 1:
        shape = f"{job.cluster.workers} workers"
    elif job.cluster.workers == 1:
        shape = f"{job.cluster.devices_per_worker} devices"
    return (
        f"dataset.batch_size is {size}, which does not divide among {replicas} replicas ({shape})",
        f"the nearest that does: {choices}",
    )


def _npz_without_path(job: JobSpec) -> Sentence:
    if job.dataset.name != "npz" or job.dataset.path is not None:
        return None
    return "dataset npz has no path", "give dataset.path, the .npz file to read"


def _digits_with_path(job: JobSpec) -> Sentence:
    if job.dataset.name != "digits" or job.dataset.path is None:
        return None
    return (
        "dataset digits comes with distrain and reads no path",
        "remove dataset.path, or choose dataset mnist, fashion_mnist or npz to read it",
    )


def _arguments_of_a_built_in(job: JobSpec) -> Sentence:
    if not job.dataset.args or job.dataset.name not in DATASETS:
        return None
    return f"dataset {job.dataset.name} takes no args", "remove dataset.args; they are for a function of your own"


def _elastic_alone(job: JobSpec) -> Sentence:
    if job.elastic is None or job.strategy.name not in ("OneDevice", "Mirrored"):
        return None
    return (
        f"elastic is given, and strategy {job.strategy.name} has one worker, which nothing can do without",
        "remove elastic, or choose strategy MultiWorkerMirrored or ParameterServer",
    )


def _elastic_minimum(job: JobSpec) -> Sentence:
    workers = job.cluster.workers
    if job.elastic is None or job.elastic.min_workers <= workers:
        return None
    number = f"{workers} worker" if workers == 1 else f"{workers} workers"
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
    if job.cluster.evaluators == 0:
        return None
    return (
        f"cluster.evaluators is {job.cluster.evaluators}, and distrain's own training has none: its chief validates",
        "leave evaluators out, and see training.validation",
    )


def _keras_backend(job: JobSpec) -> Sentence:
    if "KERAS_BACKEND" not in job.env:
        return None
    return (
        "KERAS_BACKEND cannot be set by a job: distrain trains with Keras's TensorFlow backend",
        "remove it",
        "env.KERAS_BACKEND",
    )


def _deterministic_parameter_server(job: JobSpec) -> Sentence:
    if not job.training.deterministic or job.strategy.name != "ParameterServer":
        return None
    return (
        "training.deterministic is true, and ParameterServer's workers update the weights in no fixed order",
        "choose MultiWorkerMirrored, or remove training.deterministic",
    )


def _watched(job: JobSpec) -> Sentence:
    """A callback that watches what will never be in the logs does nothing, all run long."""
    known = _log_names(job)
    for index, callback in enumerate(job.training.callbacks):
        if callback.name not in ("EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"):
            continue
        if callback.name == "ModelCheckpoint" and not callback.args.get("save_best_only"):
            continue
        watched = str(callback.args.get("monitor", "val_loss"))
        place = f"training.callbacks.{index}"
        places = (f"{place}.monitor", f"{place}.args.monitor", place)
        # Keras numbers the second metric of one name: auc_1.
        if known and re.sub(r"_[0-9]+$", "", watched) not in known and watched not in known:
            problem = f"callback {callback.name} watches {quoted(watched)}, which no log of this job holds"
            return (problem, suggestion(watched, known, f"choose one of {listed(known)}"), *places)
        if job.training.validation == 0 and watched.startswith("val_"):
            return (
                f"callback {callback.name} watches {watched}, and training.validation is false",
                "set its monitor to a training metric such as loss, or set training.validation to true",
                *places,
            )
    return None


def _log_names(job: JobSpec) -> tuple[str, ...]:
    """All that Keras's logs hold at the end of an epoch; empty where the user's own code may add to them."""
    given = (job.model, *job.training.metrics, *job.training.callbacks)
    if any(":" in named.name for named in given):
        return ()
    names = ("loss", *(logged_name(metric.name, metric.args) for metric in job.training.metrics))
    return (*names, *(f"val_{name}" for name in names), "learning_rate")


def _one_hot_loss(job: JobSpec) -> Sentence:
    wanted = ("CategoricalCrossentropy", "CategoricalFocalCrossentropy")
    if LOSSES.class_of(job.training.loss.name) not in wanted or job.dataset.name not in INTEGER_LABELS:
        return None
    return (
        f"training.loss is {job.training.loss.name}, and dataset {job.dataset.name} has no one-hot labels",
        "its labels are whole numbers: use sparse_categorical_crossentropy",
    )


def _accumulating_parameter_server(job: JobSpec) -> Sentence:
    if job.strategy.name != "ParameterServer" or "gradient_accumulation_steps" not in job.training.optimizer.args:
        return None
    return (
        "gradient_accumulation_steps adds up the gradients of steps that follow each other, and ParameterServer's "
        "workers take steps side by side",
        "choose MultiWorkerMirrored, or raise dataset.batch_size",
        "training.optimizer.gradient_accumulation_steps",
    )


_RULES = (
    Rule(("cluster.hosts",), _offers_differ),
    Rule(("cluster.hosts",), _local_over_ssh),
    Rule(("cluster.hosts", "cluster.workers", "cluster.ps", "cluster.chief", "cluster.evaluators"), _room),
    Rule(("cluster.ports", "cluster.workers", "cluster.ps", "cluster.hosts", "strategy.name"), _ports),
    Rule(("elastic.min_workers", "elastic", "cluster.workers", "cluster.hosts"), _elastic_minimum),
)

_TRAINING_RULES = (
    Rule(("cluster.chief", "strategy.name"), _chief),
    Rule(("cluster.evaluators",), _evaluators),
    Rule(("env",), _keras_backend),
    Rule(("strategy.name",), _tpu),
    Rule(("cluster.ps", "strategy.name"), _ps_without_parameter_server),
    Rule(("cluster.ps", "strategy.name"), _parameter_server_without_ps),
    Rule(("cluster.workers", "cluster.hosts", "strategy.name"), _one_process),
    Rule(("cluster.devices_per_worker", "strategy.name"), _one_device),
    Rule(
        ("dataset.batch_size", "cluster.workers", "cluster.devices_per_worker", "strategy.name"), _batch_over_replicas
    ),
    Rule(("dataset.name", "dataset.path"), _npz_without_path),
    Rule(("dataset.path", "dataset.name"), _digits_with_path),
    Rule(("dataset.args", "dataset.name"), _arguments_of_a_built_in),
    Rule(("elastic", "strategy.name"), _elastic_alone),
    Rule(("elastic.min_workers", "elastic", "dataset.batch_size", "cluster", "strategy.name"), _elastic_batch),
    Rule(("watchdog.nan", "checkpoint", "restart"), _rollback),
    Rule(("training.callbacks", "training.validation", "training.metrics", "model"), _watched),
    Rule(("training.loss", "dataset.name"), _one_hot_loss),
    Rule(("training.deterministic", "strategy.name"), _deterministic_parameter_server),
    Rule(("training.optimizer", "strategy.name"), _accumulating_parameter_server),
)


def rules_for(job: JobSpec) -> tuple[Rule, ...]:
    """The rules that concern the job; of a program only its cluster can be judged."""
    return _RULES if job.program is not None else (*_TRAINING_RULES, *_RULES)
