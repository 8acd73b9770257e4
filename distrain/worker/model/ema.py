"""An optimizer's moving average of the weights, put in their place every so many steps, on any number of replicas.

Keras asks within a condition whether it is time, which `tf.distribute` does not allow there: the weights are updated
from outside of a replica. Here every step assigns, the average or what was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def overwrite_in_step(optimizer: keras.optimizers.Optimizer) -> None:
    """Have `optimizer` be traced in a replica context even if it overwrites weights."""
    if not (optimizer.use_ema and optimizer.ema_overwrite_frequency):
        return
    update, overwrite = (
        optimizer._update_model_variables_moving_average,
        optimizer._overwrite_model_variables_with_average_value,
    )

    def update_and_overwrite(variables: Sequence[keras.Variable]) -> None:
        update(variables)
        due = tf.equal((optimizer.iterations + 1) % optimizer.ema_overwrite_frequency, 0)
        averages = optimizer._model_variables_moving_average
        pairs = [(v.value, a.value) for v, a in zip(variables, averages, strict=True) if a is not None]
        tf.distribute.get_replica_context().merge_call(_overwrite, args=(pairs, due))

    def overwrite_elsewhere(variables: Sequence[keras.Variable]) -> None:
        if tf.distribute.in_cross_replica_context():  # at training's end
            overwrite(variables)

    optimizer._update_model_variables_moving_average = update_and_overwrite
    optimizer._overwrite_model_variables_with_average_value = overwrite_elsewhere


def _overwrite(strategy: tf.distribute.Strategy, pairs: Sequence[tuple[Any, Any]], due: Any) -> None:
    for variable, average in pairs:
        strategy.extended.update(
            variable, lambda v, a, due: v.assign(tf.where(due, a, v)), args=(average, due), group=False
        )
