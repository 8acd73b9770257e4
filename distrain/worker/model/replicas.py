"""The variables that each replica updates by itself, as batch normalization does its moving averages.

Owns which these are, and how all replicas' values come together and go back. To the model's user they are the mean over
all replicas, as TensorFlow's own batch normalization has it; a training that goes on needs each replica's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf


class Replicas(Protocol):
    """Those that train one model together. Both methods are called in the graph, by all tasks at the same point."""

    replicas: int

    def each(self, what: Callable[[Any], None]) -> None:
        """Call `what` in the context of each replica of this task, with its number among all."""

    def total(self, what: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """The sum over all replicas of what `what` gives, called as by `each`."""


def own_statistics(model: keras.Model) -> list[keras.Variable]:
    """The variables of `model` that each replica changes by what it sees, those that random layers draw by left out."""
    # What TensorFlow made as trainable stays the same everywhere, and be its layer frozen.
    own = [v for v in model.non_trainable_variables if v.aggregation == "none" and not v.value.trainable]
    return [v for v in own if not v.path.endswith("seed_generator_state")]


class OwnVariables:
    """`variables`, of which each of `replicas` holds values of its own."""

    def __init__(self, replicas: Replicas, variables: Sequence[keras.Variable]) -> None:
        self._all = replicas
        self._variables = list(variables) if replicas.replicas > 1 else []
        self._sizes = [int(np.prod(v.shape)) for v in self._variables]
        self._gather: Callable[[], tf.Tensor] = tf.function(self._gathered, autograph=False)
        self._scatter: Callable[[Any], None] = tf.function(self._scattered, autograph=False)

    def rows(self) -> np.ndarray | None:
        """float64[replicas, n]: what each replica holds; None where none holds any of its own. Called by all tasks."""
        return self._gather().numpy() if self._variables else None

    def restore(self, rows: np.ndarray | None) -> None:
        """Give each replica its row. Rows of another number of replicas, or None, change nothing."""
        if not self._variables or rows is None or rows.shape != (self._all.replicas, sum(self._sizes)):
            return

        self._scatter(tf.constant(rows, tf.float64))

    def show_means(self) -> np.ndarray | None:
        """Set all replicas to their mean; what `rows` gave before. Called by all tasks."""
        rows = self.rows()
        if rows is not None:
            self.restore(np.broadcast_to(rows.mean(axis=0), rows.shape))
        return rows

    def _scattered(self, rows: tf.Tensor) -> None:
        def assign(number: Any) -> None:
            parts = tf.split(tf.gather(rows, number), self._sizes)
            for variable, part in zip(self._variables, parts, strict=True):
                variable.value.assign(tf.cast(tf.reshape(part, variable.shape), variable.dtype))

        self._all.each(assign)

    def _gathered(self) -> tf.Tensor:
        def row(number: Any) -> tf.Tensor:
            values = [tf.reshape(tf.cast(v.value, tf.float64), [-1]) for v in self._variables]
            shape = [self._all.replicas, sum(self._sizes)]
            return tf.scatter_nd([[number]], tf.concat(values, axis=0)[tf.newaxis], shape)

        return self._all.total(row)
