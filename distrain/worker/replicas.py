"""The variables that each replica updates by itself, as batch normalization does its moving averages.

Owns which these are, and how all replicas' values come together and go back. To the model's user they are those of the
first replica, but a training that goes on needs each replica's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class OwnVariables:
    """Those of `model`, whose variables belong to the `tf.distribute` strategy of the current scope."""

    def __init__(self, model: keras.Model) -> None:
        self._strategy = tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        # What TensorFlow made as trainable stays the same everywhere, and be its layer frozen.
        own = [v for v in model.non_trainable_variables if v.aggregation == "none" and not v.value.trainable]
        self._variables = [v for v in own if not v.path.endswith("seed_generator_state")] if self._replicas > 1 else []
        self._sizes = [int(np.prod(v.shape)) for v in self._variables]
        self._gather: Callable[[], tf.Tensor] = tf.function(self._gathered, autograph=False)

    def rows(self) -> np.ndarray | None:
        """float64[replicas, n]: what each replica holds; None where none holds any of its own. Called by all tasks."""
        return self._gather().numpy() if self._variables else None

    def restore(self, rows: np.ndarray | None) -> None:
        """Give each replica its row. Rows of another number of replicas, or None, change nothing."""
        if rows is None or rows.shape != (self._replicas, sum(self._sizes)):
            return

        @tf.function(autograph=False)
        def scatter() -> None:
            def replica() -> None:
                parts = tf.split(tf.gather(tf.constant(rows), _number()), self._sizes)
                for variable, part in zip(self._variables, parts, strict=True):
                    variable.value.assign(tf.cast(tf.reshape(part, variable.shape), variable.dtype))

            self._strategy.run(replica)

        scatter()

    def _gathered(self) -> tf.Tensor:
        def replica() -> tf.Tensor:
            values = [tf.reshape(tf.cast(v.value, tf.float64), [-1]) for v in self._variables]
            row = tf.concat(values, axis=0)
            rows = tf.scatter_nd([[_number()]], row[tf.newaxis], [self._replicas, sum(self._sizes)])
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, rows)

        return self._strategy.experimental_local_results(self._strategy.run(replica))[0]


def _number() -> Any:
    return tf.distribute.get_replica_context().replica_id_in_sync_group
