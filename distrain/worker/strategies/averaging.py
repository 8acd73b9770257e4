"""ParameterAveraging: workers train alone for a round of steps, then set their weights to the average of all.

Each task trains on a device of its own as OneDevice would, with its part of every batch. Averaging is one sum of one
vector over all workers: weights, moving statistics and moving averages of weights, times the examples that each has
seen in the round. What the optimizer remembers stays each worker's own.

All averagings are before a station, and so before any checkpoint: what a worker alone knows there are the optimizer's
variables, which go into the checkpoint with those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.input.feed import Share
from distrain.worker.model.keras_parts import inner_optimizer
from distrain.worker.model.replicas import own_statistics
from distrain.worker.model.step import all_reduced, clock
from distrain.worker.runtime import local_devices
from distrain.worker.strategies import communication
from distrain.worker.strategies.interface import Plan
from distrain.worker.strategies.multi_worker_mirrored import join
from distrain.worker.strategies.synchronous import Synchronous
from distrain.worker.telemetry import Events


def open_strategy(assignment: Assignment, events: Events) -> Synchronous:
    spec = assignment.job["strategy"]
    (device,) = local_devices(1)
    alone = tf.distribute.OneDeviceStrategy
    share = Share(first=assignment.index, count=1, replicas=assignment.workers)
    if assignment.workers == 1 and not spec["outer_momentum"]:
        return Synchronous(alone(device), share, spec=spec)
    if assignment.workers == 1:
        return ParameterAveraging(alone(device), alone(device), share, all_reduced, spec)
    cluster, neighbours = join(assignment, communication.options(assignment))
    return ParameterAveraging(alone(device), cluster, share, neighbours.summed if neighbours else all_reduced, spec)


class ParameterAveraging(Synchronous):
    """This task's replica, on the device of `alone`, and the `cluster` through which it meets the others.

    `summed`: how vectors of all workers are, in a replica context of `cluster`. `spec`: the job's `strategy`.
    """

    def __init__(
        self,
        alone: tf.distribute.Strategy,
        cluster: tf.distribute.Strategy,
        share: Share,
        summed: communication.Sum,
        spec: Mapping[str, Any],
    ) -> None:
        super().__init__(alone, share, spec=spec, round_steps=spec["sync_every"])
        self._cluster = cluster
        self._summed_weights = summed
        self._momentum = spec["outer_momentum"]

    def bind(self, plan: Plan) -> None:
        optimizer = inner_optimizer(plan.model.optimizer)
        averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
        self._weights = list(plan.model.trainable_variables)
        statistics = [v for v in own_statistics(plan.model) if tf.as_dtype(v.dtype).is_floating]
        self._others = [*statistics, *(average for average in averages if average is not None)]
        self._sizes = [int(np.prod(v.shape)) for v in [*self._weights, *self._others]]
        with self.scope():
            self._seen = tf.Variable(0.0, trainable=False)
            if self._momentum:
                self.variables = [_zeros_like(weight, "outer_momentum") for weight in self._weights]
                self._previous = [_zeros_like(weight, "previous") for weight in self._weights]
        super().bind(plan)

    def _own_variables(self, model: keras.Model) -> Sequence[keras.Variable]:
        averaged = {id(variable) for variable in self._others}
        return [v for v in [*own_statistics(model), *model.optimizer.variables] if id(v) not in averaged]

    def to_model(self) -> None:
        """They are the model's own, and have been averaged."""

    def from_model(self) -> None:
        if self._momentum:
            for previous, weight in zip(self._previous, self._weights, strict=True):
                previous.assign(weight)

    # ---- in the graph

    def each(self, what: Callable[[Any], Any]) -> Any:
        return self._strategy.run(lambda: what(self._share.first))

    def total(self, what: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        return self._over_cluster(all_reduced, self.each(what))

    def _over_cluster(self, summed: communication.Sum, vector: tf.Tensor) -> tf.Tensor:
        # A sum is made where its value is, which has to be a device of the cluster's.
        sums = self._cluster.run(lambda: summed([tf.identity(vector)])[0])
        return self._cluster.experimental_local_results(sums)[0]

    def _replica_step(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        self._seen.assign_add(tf.cast(tf.shape(tf.nest.flatten(batch)[0])[0], tf.float32))
        loss, waited_s = super()._replica_step(batch)
        return loss / self.replicas, waited_s  # a mean over one of so many equal parts of the batch

    def _settle(self, step: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        # An epoch ends at a station, and where a station cuts a round short the call ends.
        within = step % self._plan.order.steps_per_epoch
        round_ends = tf.equal(within % self._round_steps, 0) | tf.equal(step, last)
        return tf.cond(round_ends, self._average, lambda: tf.constant(0.0, tf.float64))

    def _average(self) -> tf.Tensor:
        """Make all workers' weights the same; how many seconds that took."""
        vector = self.each(lambda _: self._packed())
        with tf.control_dependencies([vector]):
            began = clock()
        with tf.control_dependencies([began]):
            vector = tf.identity(vector)
        total = self._over_cluster(self._summed_weights, vector)
        with tf.control_dependencies([total]):
            waited_s = clock() - began
        self.each(lambda _: self._take(total))
        return waited_s

    def _packed(self) -> tf.Tensor:
        values = [tf.reshape(tf.cast(v.value, tf.float32), [-1]) for v in [*self._weights, *self._others]]
        return tf.concat([self._seen[tf.newaxis], self._seen * tf.concat(values, axis=0)], axis=0)

    def _take(self, total: tf.Tensor) -> None:
        averages = tf.split(total[1:] / total[0], self._sizes)
        averages = [
            tf.cast(tf.reshape(average, v.shape), v.dtype)
            for average, v in zip(averages, [*self._weights, *self._others], strict=True)
        ]
        if self._momentum:
            for number, (change, previous) in enumerate(zip(self.variables, self._previous, strict=True)):
                step = self._momentum * change.value + (averages[number] - previous.value)
                averages[number] = previous.value + step
                change.value.assign(step)
                previous.value.assign(averages[number])
        for variable, average in zip([*self._weights, *self._others], averages, strict=True):
            variable.value.assign(average)
        self._seen.assign(0.0)


def _zeros_like(weight: keras.Variable, name: str) -> keras.Variable:
    return keras.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False, name=f"{weight.name}_{name}")
