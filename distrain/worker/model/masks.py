"""Losses over what a mask leaves, where a batch is cut among replicas: means over what all of them have left.

Keras divides a replica's loss by what is left of its own share, and the mean of such means is not what one device
computes. Here every share counts by what is left of it, as everywhere else it counts by its examples.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from keras.src.losses import loss as keras_loss

_of_one_replica = keras_loss.reduce_weighted_values
_tracing = threading.local()
"""Each replica of a task is traced by a thread of its own. What is patched stays so, and asks whether that thread looks
for masks."""


@dataclass(frozen=True, eq=False)
class Masked:
    """A replica's part of a `loss`, the mean over those entries that are `left`, and their number."""

    loss: tf.Tensor
    left: tf.Tensor


@contextlib.contextmanager
def found() -> Iterator[list[Masked]]:
    """The losses over what masks leave that are computed within, by this thread."""
    _tracing.found = []
    try:
        yield _tracing.found
    finally:
        del _tracing.found


def over_all_replicas(
    loss: tf.Tensor, masked: Sequence[Masked], summed: Callable[[Sequence[Any]], Sequence[Any]]
) -> tf.Tensor:
    """`loss`, which is a sum with the `masked` ones in it, where these count by what is left on all replicas. In a
    replica context; `summed`: over all of them.
    """
    left = tf.stack([one.left for one in masked])
    (of_all,) = summed([left])
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    shares = tf.unstack(tf.math.divide_no_nan(left * replicas, of_all))
    return loss + tf.add_n(
        [
            tf.cast(share - 1, loss.dtype) * tf.cast(one.loss, loss.dtype)
            for share, one in zip(shares, masked, strict=True)
        ]
    )


def _reduce_weighted_values(
    values: Any, sample_weight: Any = None, mask: Any = None, reduction: str = "sum_over_batch_size", dtype: Any = None
) -> Any:
    loss = _of_one_replica(values, sample_weight, mask, reduction, dtype)
    if mask is not None and reduction in ("mean", "sum_over_batch_size") and hasattr(_tracing, "found"):
        _tracing.found.append(Masked(loss, tf.reduce_sum(tf.cast(mask, tf.float32))))
    return loss


keras_loss.reduce_weighted_values = _reduce_weighted_values
