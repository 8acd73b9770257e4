"""Adam's update as one pass over memory.

Keras writes the update as a dozen elementwise operations, each of which reads and writes arrays as large as the
weights; on a CPU they cost as much as a small model's gradients. TensorFlow has the same formula as one kernel, which
rounds `1 - beta_2` to float32 where Keras does not: updates differ by some 1e-5 of their size. The optimizer stays
Keras's own: its state, its schedules, its clipping and decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf


def fuse(optimizer: keras.optimizers.Optimizer) -> None:
    """Have `optimizer` use the kernel, if it is an Adam whose formula is the kernel's: Adam and AdamW, not amsgrad."""
    adam = keras.optimizers.Adam
    if isinstance(optimizer, adam) and type(optimizer).update_step is adam.update_step and not optimizer.amsgrad:
        optimizer._distributed_tf_update_step = _Update(optimizer)


class _Update:
    """Takes the place of Keras's `_distributed_tf_update_step`: updates every weight where it lives."""

    def __init__(self, optimizer: keras.optimizers.Adam) -> None:
        self._optimizer = optimizer

    def __call__(
        self, distribution: tf.distribute.Strategy, gradients_and_variables: Iterable[Any], learning_rate: Any
    ) -> None:
        optimizer = self._optimizer
        for gradient, variable in gradients_and_variables:
            index = optimizer._get_variable_index(variable)
            first, second = optimizer._momentums[index].value, optimizer._velocities[index].value
            distribution.extended.update(
                variable, self._apply, args=(gradient, first, second, learning_rate), group=False
            )

    def _apply(self, variable: Any, gradient: Any, first: Any, second: Any, learning_rate: Any) -> None:
        optimizer = self._optimizer
        if isinstance(gradient, tf.IndexedSlices):  # the kernel knows no sparse gradients
            optimizer.update_step(gradient, variable, learning_rate)
            return
        dtype = variable.dtype
        step = tf.cast(optimizer.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=tf.pow(tf.cast(optimizer.beta_1, dtype), step),
            beta2_power=tf.pow(tf.cast(optimizer.beta_2, dtype), step),
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.cast(optimizer.beta_1, dtype),
            beta2=tf.cast(optimizer.beta_2, dtype),
            epsilon=tf.cast(optimizer.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
            use_locking=True,  # a parameter server is updated by several workers at once
        )
