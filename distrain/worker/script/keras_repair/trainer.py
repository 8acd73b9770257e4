"""The three faults of Keras's TensorFlow trainer under MultiWorkerMirroredStrategy, and their repair.

- `_maybe_symbolic_build` reduces a whole batch over the workers to learn its shapes. The dataset tells them.
- `reduce_per_replica` takes the mean of each replica's metrics along an axis that numbers do not have.
- With `steps_per_execution` above 1, collectives inside the loop get their keys in a way that loops do not allow.

Every other strategy gets what Keras has. Under ParameterServerStrategy, for which Keras 3 has no `fit` at all, a
sentence says what there is instead.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

import tensorflow as tf
from tensorflow.python.distribute import cross_device_utils

from distrain.worker.script.keras_repair import FAULTS, decide
from distrain.worker.telemetry import Events

_METHODS = ("fit", "evaluate", "predict")
_NO_PARAMETER_SERVER = (
    "Keras {version} has no model.{method} under ParameterServerStrategy: call distrain.fit(make_model, …) in its "
    "place, or describe the training in a job file with strategy: ParameterServer and run that with `distrain run`; "
    "or keep the script as it is with tf-keras: pip install tf-keras, set TF_USE_LEGACY_KERAS=1, and use tf.keras"
)


def repair(trainer: ModuleType, events: Events) -> None:
    """Repair `trainer`, Keras's module of that name, where it needs it."""
    from keras.src.version import __version__ as version

    cls = trainer.TensorFlowTrainer
    faults, sentence = decide(version, _sources(trainer))
    if "_maybe_symbolic_build" in faults:
        cls._maybe_symbolic_build = _build_from_spec(cls._maybe_symbolic_build)
    if "reduce_per_replica" in faults:
        trainer.reduce_per_replica = _mean_of_numbers(trainer.reduce_per_replica, trainer.tree)
    announcement = _Announcement(sentence, events)
    for name in _METHODS:
        setattr(cls, name, _guarded(getattr(cls, name), announcement, version, repaired=bool(faults)))


def _sources(trainer: ModuleType) -> dict[str, str]:
    found = {}
    for name in FAULTS:
        with contextlib.suppress(OSError):  # compiled modules alone are installed
            found[name] = inspect.getsource(getattr(trainer, name, None) or getattr(trainer.TensorFlowTrainer, name))
    return found


class _Announcement:
    """One line of the log, once, by the chief."""

    def __init__(self, sentence: str, events: Events) -> None:
        self._sentence = sentence
        self._events = events
        self._made = False

    def make(self, strategy: Any) -> None:
        if not self._made and strategy.extended.should_checkpoint:
            print(f"distrain: {self._sentence}", file=sys.stderr, flush=True)
            self._events.note(self._sentence, level="logged")
        self._made = True


def spans_workers(strategy: Any) -> bool:
    """Whether `strategy` is a MultiWorkerMirroredStrategy of more than one task."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and strategy.extended._in_multi_worker_mode()


def _guarded(
    method: Callable[..., Any], announcement: _Announcement, version: str, *, repaired: bool
) -> Callable[..., Any]:
    """`method` of the trainer, with whatever must be in place around it as a whole."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = self.distribute_strategy
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            _refuse(_NO_PARAMETER_SERVER.format(version=version, method=method.__name__))
        if not spans_workers(strategy):
            return method(self, *args, **kwargs)
        announcement.make(strategy)
        if not repaired:
            return method(self, *args, **kwargs)
        from distrain.worker.script.keras_repair import (
            callbacks,  # Keras itself is still being imported when this module is
        )

        bound = inspect.signature(method).bind(self, *args, **kwargs)
        with contextlib.ExitStack() as stack:
            given = bound.arguments.get("callbacks")
            bound.arguments["callbacks"] = stack.enter_context(callbacks.of_this_worker(given, strategy))
            if self.steps_per_execution > 1:
                stack.enter_context(_fixed_collective_keys())
            return method(*bound.args, **bound.kwargs)

    return call


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    raise NotImplementedError(sentence)


def _build_from_spec(original: Callable[..., None]) -> Callable[..., None]:
    """Takes shapes and types from the dataset. No batch is read for it, so the epoch keeps its order of examples."""

    @functools.wraps(original)
    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None or not spans_workers(self._distribute_strategy):
            original(self, iterator=iterator, data_batch=data_batch)
            return
        spec = iterator._distributed_dataset.element_spec
        original(self, data_batch=tf.nest.map_structure(_of_one_replica, spec))

    return _maybe_symbolic_build


def _of_one_replica(spec: Any) -> Any:
    components = getattr(spec, "_value_specs", None)  # with several devices in a task
    one = components[0] if components else spec
    return None if isinstance(one, tf.NoneTensorSpec | tf.OptionalSpec) else one


def _mean_of_numbers(original: Callable[..., Any], tree: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction in ("auto", "mean") and spans_workers(strategy):
            return tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)
        return original(values, strategy, reduction)

    return reduce_per_replica


@contextlib.contextmanager
def _fixed_collective_keys() -> Iterator[None]:
    """Within, collectives get their keys when they are traced, not at each call."""
    launcher = cross_device_utils.CollectiveReplicaLauncher
    kept = launcher._prefer_unique_instance_key
    launcher._prefer_unique_instance_key = False
    try:
        yield
    finally:
        launcher._prefer_unique_instance_key = kept
