"""The keys of a job file: the section that each belongs to and the kind of its value.

The one table that `load`, `--set` and the documentation's test go by. Defaults are `spec`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distrain.job.file import keras_names
from distrain.job.file.dataset import ARGUMENTS, Dataset, DatasetName
from distrain.job.file.hosts import HostFile, HostName, HostOffer
from distrain.job.file.kinds import Findings, Kind, ListOf, Section, Switched
from distrain.job.file.named import FamilyName, KnownOrFunction, NamedKind, OutputsOr
from distrain.job.file.program import Arguments, CodeFolder, Program
from distrain.job.file.source import Place
from distrain.job.file.strategy import Layout, Mesh
from distrain.job.file.tree import Items, Node, Scalar
from distrain.job.file.values import (
    Boolean,
    Choice,
    ClassWeights,
    Environment,
    Folder,
    Integer,
    LayerSizes,
    Ports,
    RunName,
    Seconds,
    Share,
    StepTimeout,
    Text,
    Validation,
)
from distrain.job.spec import (
    COMPRESSIONS,
    IMPLEMENTATIONS,
    MODELS,
    NAN_POLICIES,
    PLACEMENTS,
    PRECISIONS,
    RESTARTED,
    ROLES,
    SHARDINGS,
    STRATEGIES,
    CheckpointSpec,
    ClusterSpec,
    DatasetSpec,
    ElasticSpec,
    HostSpec,
    JobSpec,
    MeshSpec,
    ProgramSpec,
    RestartSpec,
    StrategySpec,
    TrainingSpec,
    WatchdogSpec,
)

_UNSHARDED = (
    "keras.distribution trains unsharded on the TensorFlow backend, without a word; "
    "for data parallelism choose Mirrored or MultiWorkerMirrored"
)
_SIXTEEN_BITS = {
    **dict.fromkeys(("fp16", "half"), 'did you mean "float16"?'),
    "bf16": 'did you mean "bfloat16"?',
}


@dataclass(frozen=True)
class _Checkpoint(Switched):
    """Without any interval, those of a job that says nothing of checkpoints."""

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        spec, default = super().read(node, path, findings), _DEFAULTS.checkpoint
        if not isinstance(spec, CheckpointSpec) or default is None:
            return spec
        if (spec.every_steps, spec.every_epochs, spec.every_s) != (None, None, None):
            return spec
        return replace(spec, every_epochs=default.every_epochs, every_s=default.every_s)


BUILT_IN_MODELS: Mapping[str, Mapping[str, Kind]] = {
    "cnn": {"filters": Integer(1), "dense": Integer(1), "dropout": Share(), "classes": Integer(1)},
    "mlp": {"hidden": LayerSizes(), "dropout": Share(), "classes": Integer(1)},
    "transformer": {
        "layers": Integer(1),
        "heads": Integer(1),
        "width": Integer(1),
        "dropout": Share(),
        "vocabulary": Integer(1),
        "classes": Integer(1),
    },
}
_MODELS = keras_names.Family(
    {**{name: " ".join(takes) for name, takes in BUILT_IN_MODELS.items()}, **keras_names.APPLICATIONS}
)


def owned_variable(name: str) -> str | None:
    """Why a job may not set the environment variable, None if it may."""
    if name == "TF_CONFIG":
        return "distrain writes it for each task from cluster and strategy"
    if name.startswith("DISTRAIN_") and name != "DISTRAIN_DATA":
        return "names that begin with DISTRAIN_ are distrain's own"
    return None


_DEFAULTS = JobSpec(name="defaults")


def _keras(family: keras_names.Family, noun: str, default: str | None = None) -> NamedKind:
    return NamedKind(FamilyName(family, noun), family, default)


JOB = Section(
    JobSpec,
    {
        "name": RunName(),
        "program": Program(ProgramSpec, {"argv": Arguments(), "keras_repair": Boolean()}),
        "model": NamedKind(
            KnownOrFunction((*MODELS, *keras_names.APPLICATIONS), (*MODELS, "keras.applications.<Name>")),
            _MODELS,
            _DEFAULTS.model.name,
            BUILT_IN_MODELS,
        ),
        "dataset": Dataset(
            DatasetSpec,
            {
                "name": DatasetName(),
                "path": Text(),
                "batch_size": Integer(1),
                "shard": Choice(SHARDINGS),
                "parallel_reads": Integer(1, 16),
                "parallel_calls": Integer(1),
                "deterministic": Boolean(),
                "args": ARGUMENTS,
            },
            short="name",
        ),
        "training": Section(
            TrainingSpec,
            {
                "epochs": Integer(1),
                "steps_per_epoch": Integer(1),
                "optimizer": _keras(keras_names.OPTIMIZERS, "optimizer", _DEFAULTS.training.optimizer.name),
                "loss": OutputsOr(_keras(keras_names.LOSSES, "loss", _DEFAULTS.training.losses[0].name)),
                "metrics": OutputsOr(ListOf(_keras(keras_names.METRICS, "metric"))),
                "callbacks": ListOf(_keras(keras_names.CALLBACKS, "callback")),
                "seed": Integer(0),
                "validation": Validation(),
                "deterministic": Boolean(),
                "precision": Choice(PRECISIONS),
                "jit_compile": Boolean(),
                "scale_learning_rate": Integer(1),
                "warmup_steps": Integer(0),
                "class_weight": ClassWeights(),
                "shuffle": Boolean(),
                "cache": Boolean(),
                "prefetch": Integer(0),
                "steps_per_call": Integer(1),
            },
        ),
        "strategy": Section(
            StrategySpec,
            {
                "name": Choice(STRATEGIES, foreign={"DataParallel": _UNSHARDED}),
                "implementation": Choice(IMPLEMENTATIONS),
                "pack_bytes": Integer(1),
                "compression": Choice(COMPRESSIONS, foreign=_SIXTEEN_BITS),
                "accumulate": Integer(1),
                "placement": Choice(PLACEMENTS),
                "sync_every": Integer(1),
                "outer_momentum": Share(),
                "layout": Layout(),
                "mesh": Mesh(MeshSpec, {"batch": Integer(1, 1024), "model": Integer(1, 1024)}),
                "tpu": Text(),
            },
            short="name",
        ),
        "cluster": Section(
            ClusterSpec,
            {
                "workers": Integer(1, 1024),
                "ps": Integer(0, 1024),
                "chief": Integer(0, 1),
                "evaluators": Integer(0, 1024),
                "data_workers": Integer(0, 1024),
                "hosts": ListOf(
                    HostOffer(
                        HostSpec,
                        {
                            "host": HostName(user=True),
                            "slots": Integer(1, 1024),
                            "roles": ListOf(Choice(ROLES)),
                            "port": Integer(1, 65535),
                            "key": HostFile(),
                            "python": HostFile(),
                            "address": HostName(user=False),
                        },
                    )
                ),
                "devices_per_worker": Integer(1, 1024),
                "threads_per_worker": Integer(1, 1024),
                "ports": Ports(),
                "start_timeout_s": Seconds(),
                "contact_timeout_s": Seconds(),
            },
            short="workers",
        ),
        "checkpoint": _Checkpoint(
            CheckpointSpec,
            {
                "every_steps": Integer(1),
                "every_epochs": Integer(1),
                "every_s": Seconds(),
                "keep": Integer(1),
                "keep_best": Integer(0),
                "path": Folder(),
            },
            off="no checkpoints",
            example="{every_epochs: 1, keep: 3}",
        ),
        "restart": Switched(
            RestartSpec,
            {"max": Integer(1), "window_s": Seconds(), "backoff_s": Seconds(0), "on": ListOf(Choice(RESTARTED))},
            short="max",
            off="never",
            example="{max: 3}",
        ),
        "elastic": Switched(
            ElasticSpec,
            {"min_workers": Integer(1, 1024)},
            short="min_workers",
            off="no fewer workers",
            example="{min_workers: 1}",
        ),
        "watchdog": Section(WatchdogSpec, {"step_timeout_s": StepTimeout(), "nan": Choice(NAN_POLICIES)}),
        "env": Environment(owned_variable),
        "warm": Boolean(),
        "code": CodeFolder(),
    },
)


def keys() -> Iterator[tuple[str, Kind, Any]]:
    """Every key as its dotted path, with its kind and its default (dataclasses.MISSING: there is none). A list's
    entries are all called N.
    """
    yield from _keys(JOB, "")


def _keys(section: Section, above: str) -> Iterator[tuple[str, Kind, Any]]:
    for name, kind in section.keys.items():
        yield above + name, kind, section.default(name)
        if isinstance(kind, Section):
            yield from _keys(kind, f"{above}{name}.")
        elif isinstance(kind, ListOf) and isinstance(kind.item, Section):
            yield from _keys(kind.item, f"{above}{name}.N.")


def default_list(path: str, place: Place) -> Items | None:
    """The list that stands at `path` in a job that gives none; None where no list belongs."""
    kind, default = next(((kind, default) for known, kind, default in keys() if known == path), (None, None))
    if kind is None or not isinstance(default, tuple):
        return None
    node = kind.expand(Items(place, tuple(Scalar(place, str(getattr(item, "name", item))) for item in default)))
    return node if isinstance(node, Items) else None


def homes() -> Mapping[str, str]:
    """The path of each key that has only one home, by its bare name: `epochs` lives at `training.epochs`."""
    found: dict[str, list[str]] = {}
    for path, _, _ in keys():
        found.setdefault(path.rpartition(".")[2], []).append(path)
    return {bare: paths[0] for bare, paths in found.items() if len(paths) == 1}
