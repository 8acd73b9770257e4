"""What a job file means, as frozen values with every default filled in.

Owns the keys and their defaults. Does not read YAML (`load` does) and does not place tasks (`cluster` does).
The values travel to the worker as the JSON of `JobSpec.to_json()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STRATEGIES = ("OneDevice", "Mirrored", "MultiWorkerMirrored", "ParameterServer", "TPU")
DATASETS = ("digits", "mnist", "fashion_mnist", "npz")
MODELS = ("cnn", "mlp")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Named:
    """Something by its name, with keyword arguments: a model, an optimizer, a loss, a metric, a callback.

    `name` is a built-in's name, a Keras name, or `package.module:function`.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """`batch_size` is global: examples per step over all replicas. `path` is a file or folder of the user's."""

    name: str = "digits"
    path: str | None = None
    batch_size: int = 128
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSpec:
    """`validation`: every n epochs, 0 never. `steps_per_call`: training steps per call from the host, None: distrain
    chooses. `shuffle`: a new order of the examples each epoch. `cache` and `prefetch` (batches ahead, None: TensorFlow
    chooses) concern streamed datasets; those in memory need neither.
    """

    epochs: int = 1
    steps_per_epoch: int | None = None
    optimizer: Named = Named("adam")
    loss: Named = Named("sparse_categorical_crossentropy")
    metrics: tuple[Named, ...] = (Named("accuracy"),)
    callbacks: tuple[Named, ...] = ()
    seed: int = 1
    validation: int = 1
    deterministic: bool = False
    precision: str = "float32"
    jit_compile: bool = False
    shuffle: bool = True
    cache: bool = False
    prefetch: int | None = None
    steps_per_call: int | None = None


@dataclass(frozen=True)
class StrategySpec:
    name: str = "OneDevice"


@dataclass(frozen=True)
class ClusterSpec:
    """`workers` and `ps` are numbers of tasks. `devices_per_worker`: GPUs where there are some, else virtual CPU
    devices. `threads_per_worker`: None shares the host's cores among its tasks. `ports`: candidates, in order;
    empty: any free port.
    """

    workers: int = 1
    ps: int = 0
    devices_per_worker: int = 1
    threads_per_worker: int | None = None
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class CheckpointSpec:
    """One of the two intervals is set. `keep`: how many of the newest stay."""

    every_steps: int | None = None
    every_epochs: int | None = None
    keep: int = 3


@dataclass(frozen=True)
class JobSpec:
    """A whole job. `checkpoint` None: none are written. `warm`: fork tasks from one preloaded process."""

    name: str
    model: Named = Named("cnn")
    dataset: DatasetSpec = DatasetSpec()
    training: TrainingSpec = TrainingSpec()
    strategy: StrategySpec = StrategySpec()
    cluster: ClusterSpec = ClusterSpec()
    checkpoint: CheckpointSpec | None = CheckpointSpec(every_epochs=1)
    env: Mapping[str, str] = field(default_factory=dict)
    warm: bool = True

    @property
    def replicas(self) -> int:
        """How many copies of the model share one global batch. A ParameterServer worker takes whole batches."""
        if self.strategy.name == "ParameterServer":
            return 1
        return self.cluster.workers * self.cluster.devices_per_worker

    def to_json(self) -> dict[str, Any]:
        """The job as plain JSON values, every key present."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
