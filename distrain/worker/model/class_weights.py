"""What the examples of each class count in the loss, as Keras's own `fit` has it; in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from distrain.worker.refusal import Refusal


class ClassWeights:
    """`of`: by class, a whole number from 0, what its examples count. Those of other classes count 1."""

    def __init__(self, of: Mapping[str, float]) -> None:
        weights = {int(label): float(weight) for label, weight in of.items()}
        self._last = max(weights)
        # The last place is that of all classes that are not named.
        self._table = [weights.get(label, 1.0) for label in range(self._last + 1)] + [1.0]

    def __call__(self, x: Any, y: Any, weights: Any = None) -> tuple[Any, Any, Any]:
        """The batch with weights: those that it had, times its classes'.

        Raises:
            Refusal: an example has not exactly one label.
        """
        if tf.nest.is_nested(y) or y.shape.rank not in (1, 2):
            raise Refusal(
                "training.class_weight needs one label for each example, as a number or as one-hot, but the labels "
                f"are {y if tf.nest.is_nested(y) else list(y.shape)}: leave it out, or give (x, y, weights) as examples"
            )
        if y.shape.rank == 2 and y.shape[-1] == 1:
            y_of_example = tf.squeeze(y, axis=-1)
        else:
            y_of_example = tf.argmax(y, axis=-1) if y.shape.rank == 2 else y
        if y_of_example.dtype.is_floating:
            y_of_example = tf.round(y_of_example)
        labels = tf.cast(y_of_example, tf.int64)
        named = (labels >= 0) & (labels <= self._last)
        found = tf.gather(tf.constant(self._table), tf.where(named, labels, self._last + 1))
        return x, y, found if weights is None else tf.cast(weights, found.dtype) * found
