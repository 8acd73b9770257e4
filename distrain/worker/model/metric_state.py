"""What a model's metrics hold, as one flat vector: what replicas, workers and calls from the host sum up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distrain.worker.refusal import Refusal


class MetricState:
    """The state of a model's metrics, loss included, as one flat vector: what replicas, workers and calls sum up."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.variables = [variable for metric in model.metrics for variable in metric.variables]
        self._sizes = [int(np.prod(variable.shape)) for variable in self.variables]

    @property
    def size(self) -> int:
        """How many numbers the vector has."""
        return sum(self._sizes)

    def reset(self) -> None:
        self._model.reset_metrics()

    def dealt(self, rows: np.ndarray | None, replicas: int) -> np.ndarray:
        """float64[replicas, size]: what each of so many replicas gets of `rows`, the vectors of those that were. The
        first gets all, where there were more or fewer. None: zeros.

        Raises:
            Refusal: they are of other metrics.
        """
        dealt = np.zeros([replicas, self.size])
        if rows is None:
            return dealt
        if rows.ndim != 2 or rows.shape[1] != self.size:
            raise Refusal(
                f"what the metrics held has the shape {rows.shape}, but the job's metrics hold {self.size} numbers: "
                "go on with the metrics that training began with"
            )
        if len(rows) == replicas:
            return rows
        dealt[0] = rows.sum(axis=0)
        return dealt

    def packed(self, values: Sequence[Any] | None = None) -> tf.Tensor:
        """In the graph: `values`, by default those that this replica holds, as one float64 vector."""
        values = self.variables if values is None else values
        return tf.concat([tf.reshape(tf.cast(value, tf.float64), [-1]) for value in values], axis=0)

    def unpacked(self, vector: tf.Tensor | np.ndarray) -> list[tf.Tensor]:
        """The values, one for each variable, that `packed` made `vector` of."""
        return [
            tf.cast(tf.reshape(part, variable.shape), variable.dtype)
            for part, variable in zip(tf.split(vector, self._sizes), self.variables, strict=True)
        ]

    def zeros(self) -> list[tf.Tensor]:
        return [tf.zeros(variable.shape, variable.dtype) for variable in self.variables]

    @contextlib.contextmanager
    def read_from(
        self, state: Sequence[tf.Tensor], also: Sequence[keras.Variable] = ()
    ) -> Iterator[Callable[[], list[tf.Tensor]]]:
        """Within, the metrics live in `state` in place of their variables; the value gives what became of it.
        The variables in `also` can be read there, too.
        """
        mapping = [*zip(self.variables, state, strict=True), *((v, tf.convert_to_tensor(v.value)) for v in also)]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            yield lambda: [tf.cast(scope.get_current_value(v), v.dtype) for v in self.variables]

    def results(self, vector: np.ndarray) -> dict[str, float]:
        """What the metrics say of a state that was summed up."""
        with self.read_from(self.unpacked(vector)):
            logs = self._model.get_metrics_result()
            # Here, as a result may be a variable itself.
            return {name: plain(keras.ops.convert_to_tensor(value)) for name, value in logs.items()}


def plain(value: Any) -> Any:
    """A metric's value for logs: a float, or an array where it is one."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
