"""Functions of TensorFlow and Keras that DTensor cannot divide over a mesh, made of operations that it can.

Owns which these are. Random numbers are in truth divided by DTensor, but each device would then draw its own: here all
draw the whole, which is what one device draws, and keep their part.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer
from tensorflow.experimental import dtensor

_OF_ANY_BACKEND = (
    "assign",
    "assign_add",
    "assign_sub",
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
    "_clip_by_norm",
)
"""What Keras's optimizers do through `tf.distribute` with TensorFlow, and by assigning to variables elsewhere."""


@contextlib.contextmanager
def stand_ins(mesh: dtensor.Mesh) -> Iterator[None]:
    """While what is traced within, in a `keras.StatelessScope`, TensorFlow's public functions are those that can be
    divided over `mesh`, and Keras's optimizers do without `tf.distribute`.
    """
    random = _Random(mesh)
    loss_scaling = keras.optimizers.LossScaleOptimizer
    replaced = (
        (tf, "cond", _cond),
        (tf.__internal__.smart_cond, "smart_cond", _cond),
        (tf, "matmul", _matmul),
        (tf.nn, "separable_conv2d", _separable_conv2d),
        (tf.nn, "depthwise_conv2d", _depthwise_conv2d),
        (tf.nn, "avg_pool", _avg_pool),
        (tf.nn.experimental, "stateless_dropout", random.dropout),
        (tf.random, "stateless_uniform", random.uniform),
        (tf.random, "stateless_normal", random.normal),
        (tf.random, "stateless_truncated_normal", random.truncated_normal),
        *((TFOptimizer, name, getattr(BaseOptimizer, name)) for name in _OF_ANY_BACKEND),
        (TFOptimizer, "_var_key", lambda _, variable: variable._value._unique_id),
        (loss_scaling, "_tf_apply", loss_scaling._common_apply),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def _cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any], name: str | None = None) -> Any:
    """Both branches, of which one counts: its result, and what it assigned to variables."""
    scope = get_stateless_scope()
    before = dict(scope.state_mapping)
    results, states = [], []
    for branch in (true_fn, false_fn):
        scope.state_mapping = dict(before)
        results.append(branch())
        states.append(scope.state_mapping)

    def chosen(yes: Any, no: Any) -> Any:
        # Of a scalar condition and longer values, DTensor's choice ends the process.
        return yes if yes is no else tf.where(tf.zeros_like(yes, tf.bool) | pred, yes, no)

    true, false = states
    scope.state_mapping = {key: chosen(true.get(key, value), false.get(key, value)) for key, value in before.items()}
    # A branch that is there for what it assigns gives whatever it may.
    return None if any(result is None for result in results) else tf.nest.map_structure(chosen, *results)


class _Random:
    """Numbers that all devices of the mesh draw alike. By the first version of each operation, for DTensor does not
    always find a layout for the second's key; the numbers are the same.
    """

    def __init__(self, mesh: dtensor.Mesh) -> None:
        self._mesh = mesh

    def uniform(
        self,
        shape: Any,
        seed: Any,
        minval: Any = 0,
        maxval: Any = None,
        dtype: Any = tf.float32,
        name: str | None = None,
        alg: str = "auto_select",
    ) -> tf.Tensor:
        dtype = tf.as_dtype(dtype)
        if dtype.is_integer:
            low, high = tf.cast(minval, dtype), tf.cast(maxval, dtype)
            return self._drawn(tf.raw_ops.StatelessRandomUniformInt, shape, seed, minval=low, maxval=high)
        drawn = self._drawn(tf.raw_ops.StatelessRandomUniform, shape, seed, dtype=dtype)
        low, high = tf.cast(minval, dtype), tf.cast(1 if maxval is None else maxval, dtype)
        return drawn * (high - low) + low

    def normal(
        self,
        shape: Any,
        seed: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: Any = tf.float32,
        name: str | None = None,
        alg: str = "auto_select",
    ) -> tf.Tensor:
        drawn = self._drawn(tf.raw_ops.StatelessRandomNormal, shape, seed, dtype=tf.as_dtype(dtype))
        return drawn * tf.cast(stddev, dtype) + tf.cast(mean, dtype)

    def truncated_normal(
        self,
        shape: Any,
        seed: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: Any = tf.float32,
        name: str | None = None,
        alg: str = "auto_select",
    ) -> tf.Tensor:
        drawn = self._drawn(tf.raw_ops.StatelessTruncatedNormal, shape, seed, dtype=tf.as_dtype(dtype))
        return drawn * tf.cast(stddev, dtype) + tf.cast(mean, dtype)

    def dropout(
        self, x: Any, rate: Any, seed: Any, rng_alg: str = "auto_select", noise_shape: Any = None, name: Any = None
    ) -> tf.Tensor:
        drawn = self.uniform(x.shape if noise_shape is None else noise_shape, seed, dtype=x.dtype)
        scale = tf.cast(1 / (1 - rate), x.dtype)
        return tf.where(drawn >= tf.cast(rate, x.dtype), x * scale, tf.zeros([], x.dtype))

    def _drawn(self, operation: Callable[..., tf.Tensor], shape: Any, seed: Any, **arguments: Any) -> tf.Tensor:
        shape = [int(length) for length in tf.get_static_value(tf.convert_to_tensor(shape))]
        seed = dtensor.relayout(seed, dtensor.Layout.replicated(self._mesh, 1))
        drawn = operation(shape=tf.constant(shape, tf.int32), seed=seed, **arguments)
        return dtensor.relayout(drawn, dtensor.Layout.replicated(self._mesh, len(shape)))


def _matmul(a: Any, b: Any, **settings: Any) -> tf.Tensor:
    """Of many matrices and one, DTensor cannot always make the gradient for the one."""
    if any(settings.values()) or len(a.shape) < 3 or len(b.shape) != 2:
        return tf.linalg.matmul(a, b, **settings)
    return tf.reshape(tf.linalg.matmul(tf.reshape(a, [-1, a.shape[-1]]), b), [*a.shape[:-1], b.shape[-1]])


def _separable_conv2d(
    input: Any, depthwise_filter: Any, pointwise_filter: Any, strides: Any, padding: str, **settings: Any
) -> tf.Tensor:
    x = _depthwise_conv2d(input, depthwise_filter, strides, padding, **settings)
    return tf.nn.conv2d(x, pointwise_filter, [1, 1, 1, 1], "VALID")


def _depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    padding: Any,
    data_format: str | None = None,
    dilations: Sequence[int] | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """DTensor knows the operation, but not its gradients."""
    dilations = tuple(dilations or (1, 1))[-2:]

    @tf.custom_gradient
    def convolved(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        def gradients(upstream: tf.Tensor) -> Any:
            *window, channels, multiplier = kernel.shape
            with tf.GradientTape() as tape:
                tape.watch((x, kernel))
                weights = tf.unstack(tf.reshape(kernel, [-1, channels, multiplier]))
                seen = _windows(x, window, strides[1:3], dilations, padding)
                total = tf.add_n([part[..., tf.newaxis] * weight for part, weight in zip(seen, weights, strict=True)])
            return tape.gradient(total, (x, kernel), tf.reshape(upstream, total.shape))

        convolve = tf.raw_ops.DepthwiseConv2dNative
        return convolve(
            input=x, filter=kernel, strides=list(strides), padding=padding, dilations=[1, *dilations, 1]
        ), gradients

    return convolved(input, filter)


def _avg_pool(
    input: Any, ksize: Any, strides: Any, padding: str, data_format: str | None = None, name: str | None = None
) -> tf.Tensor:
    """DTensor knows the operation, but not its gradient."""
    dimensions = len(input.shape) - 2
    window, steps = ([size] * dimensions if isinstance(size, int) else size for size in (ksize, strides))
    ones = tf.ones([1, *input.shape[1:-1], 1], input.dtype)
    counts = tf.add_n(list(_windows(ones, window, steps, [1] * dimensions, padding)))
    return tf.add_n(list(_windows(input, window, steps, [1] * dimensions, padding))) / counts


def _windows(
    x: tf.Tensor, window: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: str
) -> Iterator[tf.Tensor]:
    """For each place in a window that slides over `x`, channels last: what is seen there, padded with zeros."""
    paddings, lengths = [[0, 0]], []
    for size, count, stride, dilation in zip(x.shape[1:-1], window, strides, dilations, strict=True):
        reach = (count - 1) * dilation + 1
        length = -(-size // stride) if padding == "SAME" else (size - reach) // stride + 1
        lacking = max((length - 1) * stride + reach - size, 0) if padding == "SAME" else 0
        paddings.append([lacking // 2, lacking - lacking // 2])
        lengths.append(length)
    x = tf.pad(x, [*paddings, [0, 0]])
    for places in itertools.product(*map(range, window)):
        axes = zip(places, lengths, strides, dilations, strict=True)
        cut = [slice(at * wide, at * wide + (length - 1) * stride + 1, stride) for at, length, stride, wide in axes]
        yield x[:, *cut]
