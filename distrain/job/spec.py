"""What a job file means, as frozen values with every default filled in.

Owns the keys and their defaults. Does not read YAML (`load` does) and does not place tasks (`cluster` does).
The values travel to the worker as the JSON of `JobSpec.to_json()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STRATEGIES = (
    "OneDevice",
    "Mirrored",
    "MultiWorkerMirrored",
    "ParameterServer",
    "ParameterAveraging",
    "ModelParallel",
    "Hybrid",
    "TPU",
)
SHARDED = ("ModelParallel", "Hybrid")
"""The strategies that keep each weight in parts, on several devices."""
DATASETS = ("digits", "mnist", "fashion_mnist", "npz", "csv", "tfrecord", "image_folder")
"""Beside them those of tensorflow_datasets, by a name that begins with TFDS."""
TFDS = "tfds:"
MODELS = ("cnn", "mlp", "transformer")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
ROLES = ("chief", "worker", "ps", "evaluator", "dispatcher", "data")
IMPLEMENTATIONS = ("auto", "ring", "nccl")
COMPRESSIONS = ("none", "float16", "bfloat16")
PLACEMENTS = ("round_robin", "by_size")
SHARDINGS = ("auto", "files", "examples")
LOCAL_NAMES = ("local", "localhost")
"""Names that mean the machine where the user types, which no connection leads to."""


@dataclass(frozen=True)
class Named:
    """Something by its name, with keyword arguments: a model, an optimizer, a loss, a metric, a callback.

    `name` is a built-in's name, a Keras name, or `package.module:function`.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """`batch_size` is global: examples per step over all replicas. `path` is a file or folder of the user's.

    The rest concerns what is read from files, or streamed. `shard`: how workers divide it, by whole files, by examples
    of which each worker reads all, or whichever suits. `parallel_reads`: files read at once; `parallel_calls`: examples
    decoded at once; None: TensorFlow chooses. `deterministic`: the same order every time.
    """

    name: str = "digits"
    path: str | None = None
    batch_size: int = 128
    shard: str = "auto"
    parallel_reads: int | None = None
    parallel_calls: int | None = None
    deterministic: bool = True
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSpec:
    """`validation`: every n epochs, 0 never. `steps_per_call`: training steps per call from the host, None: distrain
    chooses. `shuffle`: a new order of the examples each epoch. `cache` and `prefetch` (batches ahead, None: TensorFlow
    chooses) concern streamed datasets; those in memory need neither. `loss` and `metrics`: of a model with several
    outputs by the name of each, if they differ.

    `scale_learning_rate`: the batch size that the optimizer's learning rate is meant for, by whose ratio to the job's
    it is multiplied; None: it stays. `warmup_steps`: over which it rises to what it is to be, from what it is without
    the scaling, or else from 0. `class_weight`: by class, what an example of it counts; those of other classes 1.
    """

    epochs: int = 1
    steps_per_epoch: int | None = None
    optimizer: Named = Named("adam")
    loss: Named | Mapping[str, Named] = Named("sparse_categorical_crossentropy")
    metrics: tuple[Named, ...] | Mapping[str, tuple[Named, ...]] = (Named("accuracy"),)
    callbacks: tuple[Named, ...] = ()
    seed: int = 1
    validation: int = 1
    deterministic: bool = False
    precision: str = "float32"
    jit_compile: bool = False
    scale_learning_rate: int | None = None
    warmup_steps: int = 0
    class_weight: Mapping[str, float] | None = None
    shuffle: bool = True
    cache: bool = False
    prefetch: int | None = None
    steps_per_call: int | None = None

    @property
    def losses(self) -> tuple[Named, ...]:
        """Those of all outputs."""
        return (self.loss,) if isinstance(self.loss, Named) else tuple(self.loss.values())

    @property
    def all_metrics(self) -> tuple[Named, ...]:
        """Those of all outputs."""
        if isinstance(self.metrics, tuple):
            return self.metrics
        return tuple(metric for of_one in self.metrics.values() for metric in of_one)


@dataclass(frozen=True)
class MeshSpec:
    """Devices in rows and columns: `batch` parts of the batch, each of which `model` devices compute together."""

    batch: int
    model: int


@dataclass(frozen=True)
class StrategySpec:
    """Each key concerns some strategies, named here; `job.check` refuses it elsewhere.

    `implementation`: how gradients, or with ParameterAveraging weights, are summed (Mirrored, MultiWorkerMirrored,
    ParameterAveraging). `pack_bytes`: of gradients that are sent as one, None: TensorFlow chooses; `compression`: what
    they are rounded to on the way (Mirrored, MultiWorkerMirrored).
    `accumulate`: parts into which each replica's share of the batch is cut, to be computed one after the other; weights
    change once for all of them (OneDevice, Mirrored, MultiWorkerMirrored, ParameterAveraging).
    `placement`: which parameter server holds which variable (ParameterServer).
    `sync_every`: steps between two averagings; `outer_momentum`: how much of the last change of the average goes on
    into the next (ParameterAveraging).
    `layout`: by regular expression on a variable's path, the mesh dimension that each of its axes is divided over, None
    for one that is not; None: distrain chooses (ModelParallel, Hybrid). `mesh`: None: as many columns as there are
    devices (Hybrid needs it, ModelParallel has none).
    `tpu`: the TPU's name or address, None: that of the host (TPU).
    """

    name: str = "OneDevice"
    implementation: str = "auto"
    pack_bytes: int | None = None
    compression: str = "none"
    accumulate: int = 1
    placement: str = "round_robin"
    sync_every: int = 8
    outer_momentum: float = 0.0
    layout: Mapping[str, tuple[str | None, ...]] | None = None
    mesh: MeshSpec | None = None
    tpu: str | None = None


@dataclass(frozen=True)
class HostSpec:
    """Room for `slots` tasks on a host. One host may be named several times, for other roles.

    `host`: what ssh calls it, an alias or `user@name`; one of LOCAL_NAMES: this machine. `roles`: empty takes any.
    `key`: the file of a private key. `python`: the interpreter there. `address`: by which the other hosts reach it,
    None: found out.
    """

    host: str
    slots: int = 1
    roles: tuple[str, ...] = ()
    port: int | None = None
    key: str | None = None
    python: str | None = None
    address: str | None = None

    @property
    def name(self) -> str:
        """The host's one name in plans, events and logs."""
        return "local" if self.host in LOCAL_NAMES else self.host


@dataclass(frozen=True)
class ProgramSpec:
    """A program of the user's, run once per task: a Python script and its arguments, or a command and its own.

    `keras_repair`: let Keras's own `fit` work under TensorFlow's strategies, in a script.
    """

    argv: tuple[str, ...]
    keras_repair: bool = True

    @property
    def is_script(self) -> bool:
        return self.argv[0].endswith(".py")


@dataclass(frozen=True)
class ClusterSpec:
    """`chief`, `workers`, `ps`, `evaluators` and `data_workers` are numbers of tasks; the chief of a ParameterServer
    job is implied, and so is the dispatcher of data workers, which read and prepare the examples for the others.
    `devices_per_worker`: GPUs where there are some, else virtual CPU devices. `threads_per_worker`: None shares the
    host's cores among its tasks. `ports`: candidates, in order; empty: any free port. `hosts`: empty: this machine.
    `start_timeout_s`: until every task is ready. `contact_timeout_s`: how long a host may be silent.
    """

    workers: int = 1
    ps: int = 0
    chief: int = 0
    evaluators: int = 0
    data_workers: int = 0
    hosts: tuple[HostSpec, ...] = ()
    devices_per_worker: int = 1
    threads_per_worker: int | None = None
    ports: tuple[int, ...] = ()
    start_timeout_s: float = 900.0
    contact_timeout_s: float = 30.0


@dataclass(frozen=True)
class CheckpointSpec:
    """Each interval that is set has its own turns. `keep`: how many of the newest stay, and `keep_best` how many of
    those with the best validation loss beside them. `path`: a folder that every host and this machine share; None: the
    run directory, to which those of other hosts are sent.
    """

    every_steps: int | None = None
    every_epochs: int | None = None
    every_s: float | None = None
    keep: int = 3
    keep_best: int = 1
    path: str | None = None


RESTARTED = ("crash", "hang", "host_lost", "preempted")
"""What a run can be restarted on. crash: any end of a task that is none of the others."""
NAN_POLICIES = ("stop", "rollback", "ignore")


@dataclass(frozen=True)
class RestartSpec:
    """At most `max` restarts within `window_s`, those after a preemption not counted; an epoch finished since sets the
    count back. `backoff_s`: the pause before the first, doubled before each further one in a row.
    """

    max: int = 3
    window_s: float = 3600.0
    backoff_s: float = 1.0
    on: tuple[str, ...] = RESTARTED


@dataclass(frozen=True)
class ElasticSpec:
    """Go on with fewer workers, `min_workers` at least, when a host is gone for good."""

    min_workers: int = 1


@dataclass(frozen=True)
class WatchdogSpec:
    """`step_timeout_s`: how long a task may make no step; None: from the run's own step times; 0: for ever. `nan`: what
    becomes of a run whose loss is not finite.
    """

    step_timeout_s: float | None = None
    nan: str = "stop"


@dataclass(frozen=True)
class JobSpec:
    """A whole job: distrain's own training, or with `program` one of the user's, which the keys in NOT_FOR_PROGRAMS
    do not concern.

    `checkpoint` None: none are written. `restart` None: never. `elastic` None: only with all workers. `warm`: fork
    tasks from one preloaded process. `code`: the folder of the user's code that hosts get, seen from where the user
    stands; True: that place itself; False: none; None: as needed.
    """

    name: str
    program: ProgramSpec | None = None
    model: Named = Named("cnn")
    dataset: DatasetSpec = DatasetSpec()
    training: TrainingSpec = TrainingSpec()
    strategy: StrategySpec = StrategySpec()
    cluster: ClusterSpec = ClusterSpec()
    checkpoint: CheckpointSpec | None = CheckpointSpec(every_epochs=1, every_s=60.0)
    restart: RestartSpec | None = RestartSpec()
    elastic: ElasticSpec | None = None
    watchdog: WatchdogSpec = WatchdogSpec()
    env: Mapping[str, str] = field(default_factory=dict)
    warm: bool = True
    code: str | bool | None = None

    @property
    def replicas(self) -> int:
        """How many copies of the model share one global batch. A ParameterServer worker takes whole batches,
        and so do all devices of a ModelParallel job together.
        """
        if self.strategy.name in ("ParameterServer", "ModelParallel"):
            return 1
        if self.strategy.mesh is not None:
            return self.strategy.mesh.batch
        return self.cluster.workers * self.cluster.devices_per_worker

    @property
    def starts_warm(self) -> bool:
        """Whether tasks are forked from one preloaded process. A program never is."""
        return self.warm and self.program is None

    @property
    def code_folder(self) -> str | None:
        """The folder whose content hosts get, seen from where the user stands. None: they need none."""
        if self.code is None:
            return "." if self.program is not None or self._names_functions() else None
        return "." if self.code is True else self.code or None

    def _names_functions(self) -> bool:
        """Whether anything is a `package.module:function`, an optimizer's schedule included."""
        training = self.training
        named = (self.model, training.optimizer, *training.losses, *training.all_metrics, *training.callbacks)
        schedule = training.optimizer.args.get("learning_rate")
        names = [self.dataset.name, schedule, *(thing.name for thing in named)]
        if isinstance(schedule, Mapping):
            names.append(schedule["name"])
        return any(isinstance(name, str) and ":" in name and not name.startswith(TFDS) for name in names)

    def to_json(self) -> dict[str, Any]:
        """The job as plain JSON values, every key present that concerns it."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        for path in NOT_FOR_PROGRAMS if self.program is not None else ("program",):
            section, _, key = path.rpartition(".")
            (plain[section] if section else plain).pop(key)
        return plain


NOT_FOR_PROGRAMS: Mapping[str, str] = {
    "model": "a program builds its own model",
    "dataset": "a program reads its own data",
    "training": "a program trains in its own way",
    "strategy": "a program makes its own strategy, out of what TF_CONFIG tells it",
    "checkpoint": "a program writes its own checkpoints, and what it writes into $DISTRAIN_OUTPUT_DIR is kept",
    "watchdog.nan": "a program looks at its own loss",
    "warm": "a program is always started by itself",
    "cluster.devices_per_worker": "a program sees all devices of its host, and $LOCAL_RANK tells it its own",
    "cluster.threads_per_worker": "a program chooses its own number of threads",
    "cluster.data_workers": "a program reads its own data",
}
"""The keys that mean nothing in a job with a program, and why."""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
