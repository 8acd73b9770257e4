"""The mathematics of one training step and one validation step, for one replica, in the graph.

Gradients are summed over the replicas once, before anything looks at them: clipping and loss scaling then see what a
single device would see. (Keras's own optimizer step clips first and sums afterwards.)
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from distrain.worker.model import adam, ema, shares
from distrain.worker.model.class_weights import ClassWeights
from distrain.worker.model.keras_parts import has_own_train_step, inner_optimizer
from distrain.worker.model.metric_state import MetricState
from distrain.worker.refusal import Refusal


def all_reduced(values: Sequence[Any]) -> Sequence[Any]:
    """In a replica context: the sums of each of `values` over all replicas, TensorFlow's way."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(values))


def clock() -> tf.Tensor:
    """In the graph: seconds, float64, of which differences within a process mean something. On a TPU, NaN."""
    if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):  # nothing compiled for one has a clock
        return tf.constant(np.nan, tf.float64)
    if is_op_determinism_enabled():  # TensorFlow's own operation then refuses
        return tf.ensure_shape(tf.numpy_function(time.monotonic, [], tf.float64), [])
    return tf.timestamp()


class TrainStep:
    """One step of `model`, compiled and built, to be called in a replica context. `summed` sums over all replicas.

    `class_weight`: by class, what its examples count. `accumulate`: parts into which a replica's share of the batch is
    cut, to be computed one after the other.

    A model class with a `train_step` of its own is trained by that, with the weights of classes as sample weights. Its
    loss per step is then its running metric.

    Raises:
        Refusal: `accumulate` cannot be right with this model's train_step or loss, `jit_compile` not with a train_step
            of its own, class weights not with its labels.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        jit_compile: bool,
        class_weight: Mapping[str, float] | None = None,
        accumulate: int = 1,
        summed: Callable[[Sequence[Any]], Sequence[Any]] = all_reduced,
    ) -> None:
        self._model = model
        self._summed = summed
        self._accumulate = accumulate
        self._class_weights = ClassWeights(class_weight) if class_weight else None
        self._own_step = has_own_train_step(model)
        self._jit_compile = jit_compile
        self._forward_backward: Callable[..., Any] = self._gradients
        if accumulate > 1:
            _check_parts(model)
        if self._own_step and jit_compile:
            raise Refusal(
                "the model has a train_step of its own, which training.jit_compile does not reach: leave train_step to "
                "Keras, or jit_compile out"
            )
        if jit_compile:
            self._forward_backward = tf.function(self._gradients, jit_compile=True, autograph=False)
        optimizer = inner_optimizer(model.optimizer)
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
        if self._own_step:
            self._sum_before_applying(model.optimizer)
        else:
            adam.fuse(optimizer)
            ema.overwrite_in_step(optimizer)

    def __call__(
        self,
        batch: Sequence[Any],
        metrics: MetricState | None = None,
        state: Sequence[tf.Tensor] = (),
        number: tf.Tensor | None = None,
    ) -> Any:
        """Apply one step over `batch`, (x, y) or (x, y, weights); (this replica's part of the loss over the global
        batch, the seconds that the sum over the replicas took, the metrics' new `state` where `metrics` is given).

        `number`: how many steps came before this one, where the optimizer's own count cannot tell. The seconds,
        float64, are NaN where the model has a train_step of its own.
        """
        model = self._model
        if self._class_weights is not None:
            batch = self._class_weights(*batch)
        if self._own_step:
            logs = model.train_step(tuple(batch))
            loss = tf.cast(logs.get("loss", np.nan), tf.float32) / _replicas()
            return loss, tf.constant(np.nan, tf.float64), state
        if self._accumulate > 1:
            gradients, loss = self._in_parts(batch)
        else:
            gradients, loss, state = self._at_once(batch, metrics, state)
        # A weight that the loss does not depend on has no gradient.
        pairs = [(g, v) for g, v in zip(gradients, model.trainable_variables, strict=True) if g is not None]
        gradients, summing_s = self._sums([gradient for gradient, _ in pairs])
        with counted(model.optimizer, number) if number is not None else contextlib.nullcontext():
            model.optimizer.apply(gradients, [variable for _, variable in pairs])
        return loss, summing_s, state

    def _sum_before_applying(self, optimizer: keras.optimizers.Optimizer) -> None:
        """For whoever calls `optimizer.apply` with the gradients of a replica."""
        apply = functools.partial(type(optimizer).apply, optimizer)  # of the class: another step may have had it

        def of_sums(gradients: Sequence[Any], variables: Any = None) -> Any:
            there = [gradient for gradient in gradients if gradient is not None]
            sums = iter(there if _replicas() == 1 else self._summed(there))
            return apply([None if gradient is None else next(sums) for gradient in gradients], variables)

        optimizer.__dict__["apply"] = of_sums  # past Keras's tracking of attributes

    def _over_what_is_left(self, loss: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
        """See `shares.Masked`.

        Raises:
            Refusal: the replicas cannot sum up in the middle of a step.
        """
        hindrance = "strategy.accumulate" if self._accumulate > 1 else None
        if _replicas() > 1 and self._jit_compile:
            hindrance = "training.jit_compile"
        if hindrance is not None:
            raise Refusal(
                f"the model masks a part of its output, and with {hindrance} the loss over what is left would not be "
                f"that of the whole batch: leave {hindrance} out, or the mask"
            )
        return loss if _replicas() == 1 else shares.over_all_replicas(loss, left, all_reduced)

    def _sums(self, gradients: Sequence[Any]) -> tuple[Sequence[Any], tf.Tensor]:
        """Gradients summed over all replicas, and how many seconds that took."""
        if _replicas() == 1:
            return gradients, tf.constant(0.0, tf.float64)
        with tf.control_dependencies(gradients):
            began = clock()
        with tf.control_dependencies([began]):
            gradients = [tf.nest.map_structure(tf.identity, g, expand_composites=True) for g in gradients]
        sums = self._summed(gradients)
        with tf.control_dependencies(sums):
            return sums, clock() - began

    def _at_once(
        self, batch: Sequence[Any], metrics: MetricState | None = None, state: Sequence[tf.Tensor] = ()
    ) -> tuple[list[Any], tf.Tensor, Sequence[tf.Tensor]]:
        """Gradients and loss of `batch`, which the metrics have counted, and the metrics' state."""
        gradients, loss, y_pred, state = self._forward_backward(*_three(*batch), metrics, state)
        x, y, weights = _three(*batch)
        with _counting(metrics, state) as counted_state, shares.of_this_replica():
            self._model._loss_tracker.update_state(loss * _replicas(), sample_weight=_size(x))
            self._model.compute_metrics(x, y, y_pred, sample_weight=weights)
        return gradients, tf.cast(loss, tf.float32), counted_state()

    def _in_parts(self, batch: Sequence[Any]) -> tuple[list[Any], tf.Tensor]:
        """As `_at_once`, in the memory that a part needs. Each counts by its size: the loss is a mean over examples."""
        parts, size = self._accumulate, _size(batch[0])
        variables = [v.value for v in self._model.trainable_variables]
        has_gradient: list[bool] = []

        def body(part: tf.Tensor, sums: list[tf.Tensor], total: tf.Tensor) -> Any:
            start, stop = size * part // parts, size * (part + 1) // parts
            cut = tf.nest.map_structure(lambda leaf: leaf[start:stop], tuple(batch))
            gradients, loss, _ = self._at_once(cut)
            has_gradient[:] = [gradient is not None for gradient in gradients]
            weight = tf.cast(stop - start, tf.float32) / tf.cast(size, tf.float32)
            sums = [
                total if gradient is None else total + tf.convert_to_tensor(gradient) * tf.cast(weight, total.dtype)
                for total, gradient in zip(sums, gradients, strict=True)
            ]
            return part + 1, sums, total + weight * loss

        begin = (tf.constant(0), [tf.zeros(v.shape, v.dtype) for v in variables], tf.constant(0.0))
        _, sums, loss = tf.while_loop(lambda part, *_: part < parts, body, begin, parallel_iterations=1)
        return [total if there else None for total, there in zip(sums, has_gradient, strict=True)], loss

    def _gradients(
        self, x: Any, y: Any, weights: Any, metrics: MetricState | None, state: Sequence[tf.Tensor]
    ) -> tuple[list[tf.Tensor | None], tf.Tensor, Any, Sequence[tf.Tensor]]:
        model = self._model
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
            # Several outputs have a metric each, which their losses go into.
            whole = self._accumulate == 1 and _replicas() == 1
            of_replica = shares.of_this_replica(self._over_what_is_left, whole=whole)
            with _with_losses(model), _counting(metrics, state) as counted_state, of_replica:
                loss = model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights, training=True)
            loss = loss / _replicas()
            scaled = model.optimizer.scale_loss(loss)
        return tape.gradient(scaled, [v.value for v in model.trainable_variables]), loss, y_pred, counted_state()


def test_step(model: keras.Model, batch: Sequence[Any]) -> None:
    """Have the metrics of `model` count `batch`, in a replica context. Of a mean over what a mask leaves, each
    replica's part counts by its examples. A test_step of the user's own is left what Keras gives it.
    """
    own = type(model).test_step is not keras.Model.test_step
    with contextlib.nullcontext() if own else shares.of_this_replica():
        model.test_step(tuple(batch))


class _Losses(threading.local):
    """Those of a model's layers and regularizers, for the replica that this thread traces. None: as Keras has them."""

    now: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


@contextlib.contextmanager
def _with_losses(model: keras.Model) -> Iterator[None]:
    """Within, the losses of layers and regularizers are those of now: where metrics live in a state, Keras would not
    find them, and where replicas meet in the middle of a step, it would find another's.
    """
    losses = model.losses
    held = model.__dict__.get("_losses_override")
    if not isinstance(held, _Losses):
        held = model.__dict__["_losses_override"] = _Losses()  # past Keras's tracking of attributes
    held.now = losses
    try:
        yield
    finally:
        held.now = ()


@contextlib.contextmanager
def _counting(metrics: MetricState | None, state: Sequence[tf.Tensor]) -> Iterator[Callable[[], Sequence[tf.Tensor]]]:
    """Within, metrics live in `state` if `metrics` is given; the value gives what became of it."""
    if metrics is None:
        yield lambda: state
        return
    with metrics.read_from(state) as current:
        yield current


def _three(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    return x, y, weights


def _size(x: Any) -> tf.Tensor:
    """How many examples a batch has."""
    return tf.shape(tf.nest.flatten(x)[0])[0]


def _replicas() -> int:
    return tf.distribute.get_replica_context().num_replicas_in_sync


def _check_parts(model: keras.Model) -> None:
    if has_own_train_step(model):
        raise Refusal(
            "the model has a train_step of its own, which strategy.accumulate cannot cut into parts: "
            "leave train_step to Keras, or accumulate out"
        )
    losses = [loss for _, loss, *_ in (model._compile_loss and model._compile_loss._flat_losses) or ()]
    if any(getattr(loss, "reduction", "mean") in (None, "none", "sum") for loss in losses):
        raise Refusal(
            "strategy.accumulate needs a loss that is a mean over the examples, but the job's has the reduction "
            "sum or none: leave its reduction, or accumulate out"
        )


class _Count:
    """Stands where an optimizer keeps its count of steps: can be read, and stays as it is."""

    def __init__(self, value: tf.Tensor) -> None:
        self.value = value
        self.dtype = value.dtype.name

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        return self.value if dtype is None else tf.cast(self.value, dtype)

    def __add__(self, other: Any) -> tf.Tensor:
        return self.value + other

    def assign_add(self, _: int) -> None:
        pass


@contextlib.contextmanager
def counted(optimizer: keras.optimizers.Optimizer, number: tf.Tensor) -> Iterator[None]:
    """Within, `optimizer` takes `number` for its count of steps, and leaves the count itself alone."""
    optimizer = inner_optimizer(optimizer)
    kept = optimizer._iterations
    optimizer.__dict__["_iterations"] = _Count(tf.cast(number, kept.dtype))  # past Keras's tracking of variables
    try:
        yield
    finally:
        optimizer.__dict__["_iterations"] = kept


def release(model: keras.Model) -> None:
    """Leave the optimizer as it was before a TrainStep had it, for whoever uses it afterwards."""
    model.optimizer.__dict__.pop("apply", None)
    optimizer = inner_optimizer(model.optimizer)
    for name in (
        "_all_reduce_sum_gradients",
        "_distributed_tf_update_step",
        "_update_model_variables_moving_average",
        "_overwrite_model_variables_with_average_value",
    ):
        optimizer.__dict__.pop(name, None)


def build(model: keras.Model, x: Any, y: Any, _weights: Any = None) -> None:
    """Make whatever Keras would make at the first batch: weights, metrics, the optimizer's variables.

    `x` and `y` are `tf.TensorSpec`s; weights of examples need nothing. Called in the strategy's scope, so that nothing
    is made while tracing.
    """
    x, y = tf.nest.map_structure(lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name), (x, y))
    model._symbolic_build(data_batch=(x, y))
    model.optimizer.build(model.trainable_variables)
