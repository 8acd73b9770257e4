"""Steps that all replicas take together: what OneDevice, Mirrored and MultiWorkerMirrored have in common.

One call from the host runs many steps in one graph. Per step the replicas exchange their gradients, once; per call
losses, metrics, the call's duration and the wish to stop, once: so every task makes the same decisions.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distrain.worker.datasets import InMemory, Stream
from distrain.worker.input.feed import (
    Cells,
    MemoryFeed,
    Share,
    StreamFeed,
    prepared,
    resident,
    split,
    take,
    validation_batches,
)
from distrain.worker.model.metric_state import MetricState
from distrain.worker.model.replicas import OwnVariables, own_statistics
from distrain.worker.model.step import TrainStep, all_reduced, clock, test_step
from distrain.worker.refusal import Refusal
from distrain.worker.strategies.interface import Call, Plan
from distrain.worker.strategies.pace import Pace


class Synchronous:
    """Drives a `tf.distribute` strategy, of whose replicas `share` says which are this task's.

    `summed`: how gradients are summed over all replicas. `spec`: the job's `strategy`. `round_steps`: a call ends where
    a round of so many steps of its epoch does, or at a station.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        share: Share,
        summed: Callable[[Sequence[Any]], Sequence[Any]] = all_reduced,
        *,
        spec: Mapping[str, Any] | None = None,
        round_steps: int = 1,
    ) -> None:
        self._strategy = strategy
        self._share = share
        self._summed_gradients = summed
        self._spec = {"accumulate": 1, **(spec or {})}
        self._round_steps = round_steps
        self.replicas = share.replicas
        self.variables: Sequence[keras.Variable] = ()

    def scope(self) -> AbstractContextManager[Any]:
        return self._strategy.scope()

    def bind(self, plan: Plan) -> None:
        self._plan = plan
        train, order = plan.dataset.train, plan.order
        if isinstance(train, InMemory):
            self._feed = MemoryFeed(train, order, self._share)
        else:
            self._feed = StreamFeed(train, order, self._share, plan.pipeline)
        self._check(plan)
        self._step = TrainStep(
            plan.model,
            # On a TPU everything is compiled, and there is nothing to ask for.
            jit_compile=plan.jit_compile and not isinstance(self._strategy, tf.distribute.TPUStrategy),
            class_weight=plan.class_weight,
            accumulate=self._spec["accumulate"],
            summed=self._summed_gradients,
        )
        self._metrics = MetricState(plan.model)
        self._pace = Pace.of(plan.steps_per_call and self._rounds(plan.steps_per_call))
        self._last_call_s = 0.0
        self._source: Any = None
        self._evaluation: Callable[[], np.ndarray] | None = None
        # Outside a graph, each variable of several replicas costs milliseconds.
        self._reset = tf.function(lambda: self.each(lambda _: self._metrics.reset()), autograph=False)
        self._train = tf.function(self._train_steps, autograph=False)
        self._sum = tf.function(self._sum_of_votes, autograph=False)
        self._own = OwnVariables(self, self._own_variables(plan.model))
        self._kept: np.ndarray | None = None

    def _check(self, plan: Plan) -> None:
        share, parts = plan.order.batch_size // self.replicas, self._spec["accumulate"]
        if share < parts:
            raise Refusal(
                f"a replica's share of a batch is {share} examples, which strategy.accumulate cannot cut into {parts} "
                f"parts: set it to {share} or less, or make dataset.batch_size larger"
            )
        validation = plan.dataset.validation
        if isinstance(validation, InMemory) and validation.size < self.replicas:
            raise Refusal(
                f"validation has {validation.size} examples for {self.replicas} replicas: "
                "give it one for each at least, or set training.validation to false"
            )

    def _own_variables(self, model: keras.Model) -> Sequence[keras.Variable]:
        return own_statistics(model)

    def restore(self, rows: np.ndarray | None, own: np.ndarray | None) -> None:
        self._own.restore(own)
        rows = self._metrics.dealt(rows, self.replicas)
        seeds = [v.value for v in self._plan.model.non_trainable_variables if v.path.endswith("seed_generator_state")]

        def assign(number: Any) -> None:
            held = self._metrics.unpacked(tf.gather(rows, number))
            for variable, value in zip(self._metrics.variables, held, strict=True):
                variable.value.assign(value)
            # Dropout and the like draw something else on each replica; on the first, what a single device would.
            for seed in seeds:
                seed.assign_add(tf.cast([number, 0], seed.dtype) * 1_000_003)

        tf.function(lambda: self.each(assign), autograph=False)()

    def own_rows(self) -> np.ndarray | None:
        return self._own.rows() if self._kept is None else self._kept

    def to_model(self) -> None:
        """They are the model's own. What each replica has learnt of the data by itself is shown as its mean."""
        if self._kept is None:
            self._kept = self._own.show_means()

    def from_model(self) -> None:
        """They are the model's own. Each replica goes on with what it has learnt by itself."""
        self._own.restore(self._kept)
        self._kept = None

    def run(self, first: int, last: int, wants_stop: Callable[[], bool]) -> Iterator[Call]:
        if first % self._plan.order.steps_per_epoch == 0:
            self._reset()
            self._source = self._feed.open(first)
        elif self._source is None:
            self._source = self._feed.open(first)
        step = first
        while step < last:
            begun = step % self._plan.order.steps_per_epoch % self._round_steps
            rounds = self._pace.rounds_of(self._rounds(begun + last - step))
            steps = min(rounds * self._round_steps - begun, last - step)
            started = time.monotonic()
            votes = tf.constant([self._last_call_s, float(wants_stop())], tf.float64)
            done = self._train(tf.constant(step, tf.int64), tf.constant(steps, tf.int64), votes, self._source)
            busy_s, (seconds, stop, *losses), rows = (value.numpy() for value in done)
            # The sum over all tasks, so that all of them choose the same number of steps; it is of the call before.
            if self._last_call_s:
                self._pace = self._pace.after(self._last_rounds, seconds / self._share.workers)
            self._last_call_s = time.monotonic() - started
            self._last_rounds = self._rounds(begun + steps)
            step += steps
            yield Call(
                steps,
                np.float32(losses),
                self._metrics.results(rows.sum(axis=0)),
                bool(stop),
                rows,
                None if np.isnan(busy_s) else float(busy_s) / steps,
            )
            if stop:
                return

    def _rounds(self, steps: int) -> int:
        """How many rounds `steps` make, of which the last may be cut short."""
        return -(-steps // self._round_steps)

    def evaluate(self) -> Mapping[str, Any]:
        if self._evaluation is None:
            self._evaluation = self._make_evaluation(self._plan.dataset.validation)
        self._reset()
        return self._metrics.results(self._evaluation().sum(axis=0))

    def agree(self, wish: int) -> int:
        if self._share.workers == 1:
            return wish
        return round(self._sum(tf.constant([float(wish)], tf.float64)).numpy()[0])

    def finish(self) -> None:
        # The others wait here for the chief, which comes when it has saved: a worker that has gone, and be it with
        # success, breaks the collectives of the rest. The first to leave may do that too, but then all have arrived.
        with contextlib.suppress(tf.errors.OpError):
            self.agree(0)

    # ---- in the graph

    def each(self, what: Callable[[Any], Any]) -> Any:
        """See `replicas.Replicas`."""
        return self._strategy.run(lambda: what(_number()))

    def total(self, what: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """See `replicas.Replicas`."""
        return self._first(self.each(lambda number: all_reduced([what(number)])[0]))

    def _train_steps(self, start: tf.Tensor, steps: tf.Tensor, votes: tf.Tensor, source: Any) -> Any:
        began = clock()

        def body(done: tf.Tensor, losses: tf.TensorArray, waited_s: tf.Tensor) -> Any:
            batches = self._feed.batches(start + done, source)
            parts, summing_s = self._strategy.run(self._replica_step, args=(self._per_replica(batches),))
            # The last of a task's replicas waits for none of its own.
            waited_s += tf.reduce_min(self._strategy.experimental_local_results(summing_s))
            waited_s += self._settle(start + done + 1, start + steps)
            loss = tf.add_n(self._strategy.experimental_local_results(parts))
            return done + 1, losses.write(tf.cast(done, tf.int32), loss), waited_s

        losses = tf.TensorArray(tf.float32, size=tf.cast(steps, tf.int32), element_shape=())
        variables = (tf.constant(0, tf.int64), losses, tf.constant(0.0, tf.float64))
        _, losses, waited_s = tf.while_loop(lambda done, *_: done < steps, body, variables)
        losses = tf.cast(losses.stack(), tf.float64)
        with tf.control_dependencies([losses]):
            busy_s = clock() - began - waited_s
        return busy_s, *self._votes_and_rows(tf.concat([votes, losses], axis=0))

    def _settle(self, step: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        """What is to be done when `step` steps are, of which the call makes `last`; how many seconds it waited."""
        return tf.constant(0.0, tf.float64)

    def _replica_step(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        loss, summing_s, _ = self._step(self._feed.prepared(batch))
        return loss, summing_s

    def _votes_and_rows(self, votes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`votes` of every task summed over all of them, and what the metrics of each replica hold, one in a row."""

        def vector(number: Any) -> tf.Tensor:
            own = tf.range(self.replicas) == number
            # Every row is of one replica: the others add nothing to it, and so no digit of it changes.
            rows = tf.where(own[:, None], self._metrics.packed()[None, :], 0.0)
            return tf.concat([tf.reshape(rows, [-1]), votes / self._share.count], axis=0)

        total, size = self.total(vector), self.replicas * self._metrics.size
        return total[size:], tf.reshape(total[:size], [self.replicas, self._metrics.size])

    def _sum_of_votes(self, votes: tf.Tensor) -> tf.Tensor:
        return self.total(lambda _: votes / self._share.count)

    def _per_replica(self, values: list[Any]) -> Any:
        if len(values) == 1:
            return values[0]
        remaining = iter(values)
        return self._strategy.experimental_distribute_values_from_function(lambda _: next(remaining))

    def _first(self, value: Any) -> tf.Tensor:
        return self._strategy.experimental_local_results(value)[0]

    # ---- validation: no exchange until its end, so tasks need not have the same number of steps

    def _make_evaluation(self, examples: InMemory | Stream) -> Callable[[], np.ndarray]:
        none = tf.zeros([0], tf.float64)
        if isinstance(examples, InMemory):
            arrays = resident(examples)
            cells = Cells.of(examples.size, self._plan.order.batch_size, self.replicas)

            @tf.function(autograph=False)
            def evaluate_all() -> tf.Tensor:
                def body(step: tf.Tensor) -> tf.Tensor:
                    with tf.device("CPU:0"):
                        batches = [
                            take(arrays, cells.indices(step, self._share.first + replica))
                            for replica in range(self._share.count)
                        ]
                    self._strategy.run(
                        lambda batch: self._replica_test(prepared(examples, batch)), args=(self._per_replica(batches),)
                    )
                    return step + 1

                tf.while_loop(lambda step: step < cells.steps, body, (tf.constant(0, tf.int64),))
                return self._votes_and_rows(none)[1]

            return lambda: evaluate_all().numpy()

        batches = validation_batches(examples, self._plan.order.batch_size, self._share, self._plan.pipeline)

        @tf.function(autograph=False, reduce_retracing=True)
        def evaluate_batch(batch: Any) -> None:
            self._strategy.run(self._replica_test, args=(self._per_replica(split(batch, self._share.count)),))

        summed = tf.function(lambda: self._votes_and_rows(none)[1], autograph=False)

        def evaluate_stream() -> np.ndarray:
            for batch in batches:
                evaluate_batch(batch)
            return summed().numpy()

        return evaluate_stream

    def _replica_test(self, batch: tuple[Any, Any]) -> None:
        test_step(self._plan.model, batch)


def _number() -> Any:
    return tf.distribute.get_replica_context().replica_id_in_sync_group
