"""Losses that mean the same on any number of replicas.

Keras divides by their number the means that it makes itself, and nothing else: not one number for all examples that a
function or a `compute_loss` of the user's has come to in its own way. Within a step each loss is that of this replica's
part of the batch instead, and the step divides by their number, once. A sum is multiplied by it before. So the mean
over all replicas is the loss of the whole batch.

Of a mean over what a mask leaves, each replica's part counts by what is left of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from keras.src.losses import loss as keras_loss

from distrain.worker.refusal import Refusal

Masked = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""What becomes of a replica's loss, the mean over those entries that a mask leaves, and their number, float32."""

_MEANS = ("mean", "sum_over_batch_size")
_keras = {
    name: getattr(keras_loss, name)
    for name in ("reduce_weighted_values", "scale_loss_for_distribution", "unscale_loss_for_distribution")
}
_tracing = threading.local()
"""Each replica of a task is traced by a thread of its own. What is patched stays so, and asks whether that thread is in
a step: then there is `masked`.
"""


@contextlib.contextmanager
def of_this_replica(masked: Masked = lambda loss, left: loss, *, whole: bool = True) -> Iterator[None]:
    """Within, losses that this thread computes are those of this replica's part of the batch. `whole`: that is all of
    it, or it does not matter.

    Raises:
        Refusal: a loss of parts would not be that of the whole.
    """
    _tracing.masked, _tracing.whole = masked, whole
    try:
        yield
    finally:
        del _tracing.masked, _tracing.whole


def over_all_replicas(loss: tf.Tensor, left: tf.Tensor, summed: Callable[[Sequence[Any]], Sequence[Any]]) -> tf.Tensor:
    """A Masked whose mean over all replicas is the mean over what is left on all of them. In a replica context;
    `summed`: over all of them.
    """
    (of_all,) = summed([left])
    return loss * tf.cast(tf.math.divide_no_nan(left * _replicas(), of_all), loss.dtype)


def _reduced(
    values: Any, sample_weight: Any = None, mask: Any = None, reduction: str = "sum_over_batch_size", dtype: Any = None
) -> Any:
    loss = _keras["reduce_weighted_values"](values, sample_weight, mask, reduction, dtype)
    if not _in_step():
        return loss
    one_number = tf.convert_to_tensor(values).shape.rank == 0
    if sample_weight is not None and not _tracing.whole:
        if reduction == "mean_with_sample_weight":
            raise Refusal(
                "a loss has the reduction mean_with_sample_weight, and a batch is cut into parts, each of which would "
                "be divided by its own weights' sum: leave the reduction out, or use OneDevice without accumulate"
            )
        if one_number:
            raise Refusal(
                "the loss is one number for all examples, which weights of examples or classes cannot weigh one by "
                "one: give one for each example, or leave the weights out"
            )
    if reduction == "sum":
        return loss * tf.cast(_replicas(), loss.dtype)
    # One number for all examples has seen to the mask by itself, or does not care for it.
    if mask is not None and reduction in _MEANS and not one_number:
        return _tracing.masked(loss, tf.reduce_sum(tf.cast(mask, tf.float32)))
    return loss


def _scaled(value: Any) -> Any:
    return value if _in_step() else _keras["scale_loss_for_distribution"](value)


def _unscaled(value: Any) -> Any:
    return value if _in_step() else _keras["unscale_loss_for_distribution"](value)


def _in_step() -> bool:
    return hasattr(_tracing, "masked")


def _replicas() -> int:
    return tf.distribute.get_replica_context().num_replicas_in_sync


keras_loss.reduce_weighted_values = _reduced
keras_loss.scale_loss_for_distribution = _scaled
keras_loss.unscale_loss_for_distribution = _unscaled
