"""A replica's share of a loss, where Keras would have it be that of a batch of its own.

- A mean over what a mask leaves: Keras divides by what is left of the replica's part of the batch, and the mean of such
  means is not what one device computes. Here each part counts by what is left of it.
- A function of the user's that gives one number for all examples: Keras divides losses by the number of replicas, but
  not this one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from keras.src.losses import loss as keras_loss

_MEANS = ("mean", "sum_over_batch_size")
_reduced_by_keras = keras_loss.reduce_weighted_values
_tracing = threading.local()
"""Each replica of a task is traced by a thread of its own. What is patched stays so, and asks whether that thread is in
a training step.
"""


@dataclass(frozen=True, eq=False)
class Masked:
    """A replica's part of a `loss`, the mean over those entries that are `left`, and their number."""

    loss: tf.Tensor
    left: tf.Tensor


@contextlib.contextmanager
def of_this_replica() -> Iterator[list[Masked]]:
    """Within, losses that this thread computes are shares of those of all replicas. Those over what masks leave are
    not yet, and stand in the list: see `over_all_replicas`.
    """
    _tracing.masked = []
    try:
        yield _tracing.masked
    finally:
        del _tracing.masked


def over_all_replicas(
    loss: tf.Tensor, masked: Sequence[Masked], summed: Callable[[Sequence[Any]], Sequence[Any]]
) -> tf.Tensor:
    """`loss`, which is a sum with the `masked` ones in it, where these count by what is left on all replicas. In a
    replica context; `summed`: over all of them.
    """
    left = tf.stack([one.left for one in masked])
    (of_all,) = summed([left])
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    more = tf.unstack(tf.math.divide_no_nan(left * replicas, of_all) - 1)
    return loss + tf.add_n(
        [tf.cast(by, loss.dtype) * tf.cast(one.loss, loss.dtype) for by, one in zip(more, masked, strict=True)]
    )


def _reduced(
    values: Any, sample_weight: Any = None, mask: Any = None, reduction: str = "sum_over_batch_size", dtype: Any = None
) -> Any:
    loss = _reduced_by_keras(values, sample_weight, mask, reduction, dtype)
    if reduction not in _MEANS or not hasattr(_tracing, "masked"):
        return loss
    if tf.convert_to_tensor(values).shape.rank == 0:
        return keras_loss.scale_loss_for_distribution(loss)
    if mask is not None:
        _tracing.masked.append(Masked(loss, tf.reduce_sum(tf.cast(mask, tf.float32))))
    return loss


keras_loss.reduce_weighted_values = _reduced
