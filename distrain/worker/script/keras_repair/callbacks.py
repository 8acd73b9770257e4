"""Callbacks that write files, when every worker has them: the chief writes, as scripts for one process expect.

The others do all that the chief does, since some of it needs every worker, but into a folder that is removed. What
BackupAndRestore finds on the chief is what all workers start from.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

_PLACES = {
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.BackupAndRestore: "backup_dir",
    keras.callbacks.TensorBoard: "log_dir",
    keras.callbacks.CSVLogger: "filename",
}
"""Callbacks of Keras that write, and the attribute that says where."""


@contextlib.contextmanager
def of_this_worker(given: Any, strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """`given`, as a call's argument `callbacks` may be, made fit for this worker of `strategy`.

    They are the same objects: on the chief unchanged, on the others they look elsewhere while this lasts.
    """
    if isinstance(given, keras.callbacks.CallbackList):  # of `fit`, for an `evaluate` within: dealt with already
        yield given
        return
    own = list(tf.nest.flatten(given)) if given is not None else []
    with contextlib.ExitStack() as stack:
        if not strategy.extended.should_checkpoint:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="distrain-not-kept-"))
            for number, callback in enumerate(own):
                stack.enter_context(_elsewhere(callback, os.path.join(folder, str(number))))
        if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in own):
            own.append(_StartAlike(strategy))
        yield own or given


@contextlib.contextmanager
def _elsewhere(callback: Any, folder: str) -> Iterator[None]:
    place = next((place for kind, place in _PLACES.items() if isinstance(callback, kind)), None)
    if place is None:
        yield
        return
    os.mkdir(folder)
    old = os.fspath(getattr(callback, place))
    new = os.path.join(folder, os.path.basename(os.path.normpath(old)))
    kept = {name: value for name, value in vars(callback).items() if _is_at(value, old)}
    for name, value in kept.items():
        setattr(callback, name, new + os.fspath(value).removeprefix(old.rstrip(os.sep)))
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(callback, name, value)


def _is_at(value: Any, place: str) -> bool:
    """Whether `value` is the path `place` or one below it."""
    if not isinstance(value, str | os.PathLike):
        return False
    return os.fspath(value) == place or os.fspath(value).startswith(os.path.join(place, ""))


class _StartAlike(keras.callbacks.Callback):
    """After what a callback before it has restored: every worker gets the chief's epoch, weights and optimizer."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        super().__init__()
        self._strategy = strategy

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        (epoch,) = self._of_chief([tf.constant(model._initial_epoch or 0)])
        model._initial_epoch = int(epoch)
        if model._initial_epoch == 0:
            return
        variables = [*model.weights, *model.optimizer.variables]
        with self._strategy.scope():
            values = self._of_chief([tf.convert_to_tensor(variable.value) for variable in variables])
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _of_chief(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """What `values` are on the chief."""

        @tf.function(autograph=False)
        def summed(sendable: list[tf.Tensor]) -> list[tf.Tensor]:
            def replica() -> list[tf.Tensor]:
                first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
                return [tf.where(first, value, tf.zeros_like(value)) for value in sendable]

            return [self._strategy.reduce("SUM", value, axis=None) for value in self._strategy.run(replica)]

        # Workers add up floating-point numbers and int64, but not every type that a variable may have.
        found = summed([value if value.dtype.is_floating else tf.cast(value, tf.int64) for value in values])
        return [tf.cast(total, value.dtype) for total, value in zip(found, values, strict=True)]
