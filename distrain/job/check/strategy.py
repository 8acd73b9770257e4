"""What a strategy can be told, and how it divides devices and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distrain.job.check.rule import Rule, Sentence, counted
from distrain.job.cluster import divides
from distrain.job.file.kinds import quoted
from distrain.job.spec import SHARDED, JobSpec, StrategySpec

_SUMMING = ("Mirrored", "MultiWorkerMirrored")

_KEYS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "implementation": ((*_SUMMING, "ParameterAveraging"), "how gradients or weights are summed"),
    "pack_bytes": (_SUMMING, "how many bytes of gradients are sent as one"),
    "compression": (_SUMMING, "what gradients are rounded to on their way"),
    "accumulate": (
        ("OneDevice", *_SUMMING, "ParameterAveraging"),
        "into how many parts each replica cuts its share of a batch",
    ),
    "placement": (("ParameterServer",), "which parameter server holds which variable"),
    "sync_every": (("ParameterAveraging",), "after how many steps weights are averaged"),
    "outer_momentum": (("ParameterAveraging",), "how much of the last change of the average goes on into the next"),
    "layout": (SHARDED, "which weights are divided over which devices"),
    "mesh": (("Hybrid",), "how devices stand in rows and columns"),
    "tpu": (("TPU",), "where the TPU is"),
}
"""The strategies that each key concerns, and what it says."""


def _foreign_key(job: JobSpec) -> Sentence:
    for key, (strategies, what) in _KEYS.items():
        value, usual = getattr(job.strategy, key), getattr(StrategySpec(), key)
        if value == usual or job.strategy.name in strategies:
            continue
        return (
            f"strategy.{key} is {_shown(value)}, and strategy {job.strategy.name} knows no such thing: it says {what}",
            f"remove it, or choose strategy {' or '.join(strategies)}",
            f"strategy.{key}",
        )
    return None


def _shown(value: Any) -> str:
    return "given" if not isinstance(value, str | int | float) else str(value)


def _ps_without_parameter_server(job: JobSpec) -> Sentence:
    if job.cluster.ps == 0 or job.strategy.name == "ParameterServer":
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


def _nothing_to_place(job: JobSpec) -> Sentence:
    if job.strategy.name != "ParameterServer" or job.strategy.placement == "round_robin" or job.cluster.ps != 1:
        return None
    return (
        f"strategy.placement is {job.strategy.placement}, and the only parameter server holds every variable",
        "remove strategy.placement, or give cluster.ps 2 or more",
    )


def _one_process(job: JobSpec) -> Sentence:
    if job.cluster.workers == 1 or job.strategy.name not in ("OneDevice", "Mirrored", "TPU"):
        return None
    if job.strategy.name == "TPU":
        return (
            f"cluster.workers is {job.cluster.workers}, and strategy TPU has one, which takes all cores of the TPU",
            "set cluster.workers to 1",
        )
    return (
        f"cluster.workers is {job.cluster.workers}, and strategy {job.strategy.name} trains in one process",
        "choose strategy MultiWorkerMirrored or ParameterServer for several workers, or set cluster.workers to 1",
    )


def _one_device(job: JobSpec) -> Sentence:
    devices = job.cluster.devices_per_worker
    if devices == 1 or job.strategy.name not in ("OneDevice", "ParameterServer", "ParameterAveraging", "TPU"):
        return None
    problem = f"cluster.devices_per_worker is {devices}, and strategy {job.strategy.name} uses one device per worker"
    if job.strategy.name == "TPU":
        problem = f"cluster.devices_per_worker is {devices}, and strategy TPU takes as many cores as the TPU has"
        return problem, "remove cluster.devices_per_worker"
    if job.strategy.name == "OneDevice":
        return problem, "choose strategy Mirrored, or remove cluster.devices_per_worker"
    return problem, "give more cluster.workers, and remove cluster.devices_per_worker"


def _devices(job: JobSpec) -> int:
    return job.cluster.workers * job.cluster.devices_per_worker


def _shape(job: JobSpec) -> str:
    workers, devices = job.cluster.workers, job.cluster.devices_per_worker
    if devices == 1:
        return f"{workers} workers"
    return f"{devices} devices" if workers == 1 else f"{workers} workers of {devices} devices"


def _nothing_to_divide(job: JobSpec) -> Sentence:
    if job.strategy.name not in SHARDED or _devices(job) > 1:
        return None
    return (
        f"strategy {job.strategy.name} divides weights over devices, and the job has one",
        "give cluster.devices_per_worker or cluster.workers 2 or more, or choose strategy OneDevice",
    )


def _mesh(job: JobSpec) -> Sentence:
    if job.strategy.name != "Hybrid" or _devices(job) == 1:
        return None
    mesh, devices = job.strategy.mesh, _devices(job)
    if mesh is None:
        return (
            "strategy Hybrid has no mesh",
            f"give strategy.mesh, such as {{batch: {devices // 2 if devices % 2 == 0 else devices}, "
            f"model: {2 if devices % 2 == 0 else 1}}}: batch times model is the number of devices, {devices}",
        )
    if mesh.batch * mesh.model == devices:
        return None
    return (
        f"strategy.mesh is of {mesh.batch} times {mesh.model} = {mesh.batch * mesh.model} devices, and the job has "
        f"{devices} ({_shape(job)})",
        f"make batch times model {devices}, or change cluster.workers or cluster.devices_per_worker",
    )


def _rows(job: JobSpec) -> Sentence:
    mesh, devices = job.strategy.mesh, job.cluster.devices_per_worker
    if job.strategy.name != "Hybrid" or mesh is None or mesh.batch * mesh.model != _devices(job):
        return None
    if devices % mesh.model == 0 or mesh.model % devices == 0:
        return None
    return (
        f"strategy.mesh has rows of {mesh.model} devices, and workers have {devices}: "
        "a row is neither of whole workers, nor a worker of whole rows",
        "make one a multiple of the other",
        "strategy.mesh.model",
    )


def _one_row(job: JobSpec) -> Sentence:
    if job.strategy.name != "ModelParallel" or job.strategy.layout is None:
        return None
    over_rows = next((name for name, axes in job.strategy.layout.items() if "batch" in axes), None)
    if over_rows is None:
        return None
    return (
        f"strategy.layout divides {quoted(over_rows)} over batch, and ModelParallel's mesh has no dimension but model",
        "write model, or choose strategy Hybrid",
        "strategy.layout",
    )


def _batch_over_replicas(job: JobSpec) -> Sentence:
    size, replicas = job.dataset.batch_size, job.replicas
    if divides(job, job.cluster.workers) or _one_process(job) or _one_device(job):
        return None  # else the replicas are unknown
    below = size - size % replicas
    choices = f"{below} or {below + replicas}" if below else str(replicas)
    shape = _shape(job) if job.strategy.mesh is None else "the mesh's batch"
    return (
        f"dataset.batch_size is {size}, which does not divide among {replicas} replicas ({shape})",
        f"the nearest that does: {choices}",
    )


def _parts(job: JobSpec) -> Sentence:
    parts = job.strategy.accumulate
    share = job.dataset.batch_size // job.replicas
    if job.strategy.name not in _KEYS["accumulate"][0] or parts <= share or not divides(job, job.cluster.workers):
        return None
    whose = "the batch has" if job.replicas == 1 else f"each of {counted(job.replicas, 'replica')} gets"
    return (
        f"strategy.accumulate is {parts}, and {whose} {counted(share, 'example')}",
        f"give {share} or less, or a larger dataset.batch_size",
    )


def _keras_backend(job: JobSpec) -> Sentence:
    if "KERAS_BACKEND" not in job.env:
        return None
    return (
        "KERAS_BACKEND cannot be set by a job: distrain trains with Keras's TensorFlow backend",
        "remove it",
        "env.KERAS_BACKEND",
    )


_SHARES = ("cluster.workers", "cluster.devices_per_worker", "cluster.hosts", "strategy.name")

RULES = (
    Rule(("strategy",), _foreign_key),
    Rule(("cluster.ps", "strategy.name"), _ps_without_parameter_server),
    Rule(("cluster.ps", "strategy.name"), _parameter_server_without_ps),
    Rule(("strategy.placement", "cluster.ps", "strategy.name"), _nothing_to_place),
    Rule(("cluster.workers", "cluster.hosts", "strategy.name"), _one_process),
    Rule(("cluster.devices_per_worker", "strategy.name"), _one_device),
    Rule(("strategy.name", "cluster.workers", "cluster.devices_per_worker", "cluster.hosts"), _nothing_to_divide),
    Rule(("strategy.mesh", "strategy.name", "cluster.workers", "cluster.devices_per_worker", "cluster.hosts"), _mesh),
    Rule(("dataset.batch_size", "strategy.mesh", *_SHARES), _batch_over_replicas),
    Rule(("strategy.accumulate", "dataset.batch_size", "strategy.mesh", *_SHARES), _parts),
    Rule(("strategy.mesh", *_SHARES), _rows),
    Rule(("strategy.layout", "strategy.name"), _one_row),
    Rule(("env",), _keras_backend),
)
