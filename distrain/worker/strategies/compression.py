"""Gradients that travel in 16 bits: rounded, summed so, and float32 again. What they change is float32 throughout.

bfloat16 has float32's range and 8 bits of a number. float16 has 11 bits but ends at 65504 and at 6e-8: all replicas
multiply by one power of two, which the largest gradients of all of them give, and divide by it again. That costs a
second, very small exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Sum = Callable[[Sequence[Any]], Sequence[Any]]

_LARGEST = 2.0**15
"""What the sum of all replicas' largest values stays below: half of float16's range, for rounding."""
_EXPONENT_BITS = 0x7F800000


def compressed(summed: Sum, kind: str, *, travels: bool = True) -> Sum:
    """`summed`, of values that are rounded to `kind`, float16 or bfloat16.

    `travels` False: where less bytes gain nothing, the rounded values are summed in float32. Values that are no floats
    of 32 bits or more are left as they are.
    """
    dtype = tf.as_dtype(kind)

    def sums(values: Sequence[Any]) -> list[Any]:
        with tf.name_scope("compressed"):
            scale = _scale(summed if travels else list, values) if dtype == tf.float16 else None
            narrow = [_each(value, lambda v: _narrowed(v, dtype, scale)) for value in values]
            if not travels:
                narrow = [_widened(n, value, scale) for n, value in zip(narrow, values, strict=True)]
                return list(summed(narrow))
            return [_widened(n, value, scale) for n, value in zip(_by_bits(summed)(narrow), values, strict=True)]

    return sums


def _narrowed(value: tf.Tensor, dtype: tf.DType, scale: tf.Tensor | None) -> tf.Tensor:
    if not _is_wide(value):
        return value
    return tf.cast(value if scale is None else value * tf.cast(scale, value.dtype), dtype)


def _widened(narrow: Any, like: Any, scale: tf.Tensor | None) -> Any:
    if not _is_wide(like):
        return narrow
    wide = _each(narrow, lambda value: tf.cast(value, like.dtype))
    return wide if scale is None else _each(wide, lambda value: value / tf.cast(scale, like.dtype))


def _scale(summed: Sum, values: Sequence[Any]) -> tf.Tensor:
    """A power of two, the same on all replicas, by which no partial sum leaves float16. 1 where a value is not finite:
    whoever looks for that, as the scaling of losses does, finds it in the sum.
    """
    dense = [value.values if isinstance(value, tf.IndexedSlices) else value for value in values]
    largest = [tf.cast(tf.reduce_max(tf.abs(value)), tf.float32) for value in dense if _is_wide(value)]
    (bound,) = summed([tf.reduce_max(tf.stack([0.0, *largest]))])
    power = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(bound, tf.int32), _EXPONENT_BITS), tf.float32)
    scale = tf.minimum(_LARGEST / 2 / power, 2.0**100)
    return tf.where(tf.math.is_finite(bound) & (power > 0), scale, 1.0)


def _by_bits(summed: Sum) -> Sum:
    """`summed`, where rows of bfloat16 travel under the name of float16: TensorFlow gathers no others. It does not add
    them up.
    """

    def sums(values: Sequence[Any]) -> list[Any]:
        renamed = [
            _each(v, lambda rows: tf.bitcast(rows, tf.float16))
            if isinstance(v, tf.IndexedSlices) and v.dtype == tf.bfloat16
            else v
            for v in values
        ]
        return [
            _each(total, lambda rows: tf.bitcast(rows, tf.bfloat16)) if v.dtype != total.dtype else total
            for v, total in zip(values, summed(renamed), strict=True)
        ]

    return sums


def _each(value: Any, change: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(change(value.values), value.indices, value.dense_shape)
    return change(value)


def _is_wide(value: Any) -> bool:
    return value.dtype in (tf.float32, tf.float64)
