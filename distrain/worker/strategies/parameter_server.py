"""ParameterServer: the chief hands out steps, workers take them independently, parameter servers hold the weights.

Each worker holds the arrays itself and takes whole global batches: a step is done once, by whichever worker is free.
Steps are counted here, on the chief, and each knows its number: workers that count up `optimizer.iterations` at once
lose increments, and would see a count that lags.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import InMemory, Stream
from distrain.worker.input.feed import Cells, drawn_at_random, prepared, resident, take
from distrain.worker.model.keras_parts import has_own_train_step
from distrain.worker.model.metric_state import MetricState
from distrain.worker.model.step import TrainStep
from distrain.worker.refusal import Refusal
from distrain.worker.strategies.interface import Call, PeerGone, Plan
from distrain.worker.strategies.pace import Pace
from distrain.worker.strategies.placement import BySize
from distrain.worker.telemetry import Events
from distrain.worker.vitals import Vitals

_FROM_A_SERVER = re.compile(r"GRPC error information from remote target /job:ps/replica:\d+/task:(\d+)")

IN_FLIGHT_PER_WORKER = 2
"""Enough that no worker waits for the chief, and few enough that a stop is near."""


def serve(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    """Be a worker or a parameter server until the task is stopped. Does not return."""
    cluster = tf.train.ClusterSpec(json.loads(os.environ["TF_CONFIG"])["cluster"])
    threads = assignment.threads
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads + 1)
    events.phase("connecting")
    server = tf.distribute.Server(
        cluster, job_name=assignment.role, task_index=assignment.index, protocol="grpc", config=config
    )
    events.ready(parameters=0, replicas=0)
    with vitals.within("serving"):
        server.join()


def open_strategy(assignment: Assignment, events: Events) -> ParameterServer:
    if assignment.training["jit_compile"]:
        events.note("jit_compile has no effect with ParameterServer: the weights are out of a compiled step's reach")
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    by_size = assignment.job["strategy"]["placement"] == "by_size"
    placement = BySize(strategy, assignment.job["cluster"]["ps"]) if by_size else None
    return ParameterServer(strategy, assignment.workers, placement)


def _sendable(dataset: Callable[[], tf.data.Dataset]) -> Any:
    """`dataset` as a function that a worker can run. Python in it, such as a generator, runs on the chief.

    Raises:
        Refusal: it uses a dataset that exists already, or makes variables.
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise Refusal(
            "the dataset function makes variables, as Keras's preprocessing layers do, which the workers of a "
            "ParameterServer job cannot: make them once, outside of the function, or return arrays"
        )

    with tf.variable_creator_scope(refuse):
        function = tf.function(dataset, autograph=False).get_concrete_function()
    if any(tensor.dtype == tf.variant for tensor in function.captured_inputs):
        raise Refusal(
            "the dataset function returns a tf.data.Dataset that was there before the call, which cannot be sent to "
            "the workers of a ParameterServer job: make a new one in each call, or return arrays"
        )
    return function


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """The end of a parameter server is told by its name, which TensorFlow says deep in its own words."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if (server := _FROM_A_SERVER.search(str(error))) is None:
            raise
        raise PeerGone(f"ps:{server[1]} is gone") from error


class ParameterServer:
    """The chief's side. A worker that ends and is started anew at its address takes part again by itself: what it was
    at is done by another, and the data that it held is made again. Without a parameter server nothing goes on.
    """

    replicas = 1
    variables: Sequence[keras.Variable] = ()

    def __init__(
        self, strategy: tf.distribute.ParameterServerStrategy, workers: int, placement: BySize | None = None
    ) -> None:
        self._strategy = strategy
        self._placement = placement
        self._workers = workers
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with self._strategy.scope(), self._placement.scope() if self._placement else contextlib.nullcontext():
            yield

    def bind(self, plan: Plan) -> None:
        if has_own_train_step(plan.model):
            raise Refusal(
                "the model has a train_step of its own, whose metrics the workers of a ParameterServer job would "
                "overwrite for each other: leave train_step to Keras, or use another strategy"
            )
        self._plan = plan
        self._iterations = plan.model.optimizer.iterations
        # Weights live on the parameter servers, out of reach of a compiled function on a worker.
        self._step = TrainStep(plan.model, jit_compile=False, class_weight=plan.class_weight)
        self._metrics = MetricState(plan.model)
        self._pace = Pace.of(plan.steps_per_call)
        self._source = self._open(plan.dataset.train)
        self._evaluation: Callable[[], np.ndarray] | None = None
        train = self._train_memory if isinstance(plan.dataset.train, InMemory) else self._train_stream
        self._train = tf.function(train, autograph=False)

    def restore(self, rows: np.ndarray | None, own: np.ndarray | None) -> None:
        self._epoch_state = self._metrics.dealt(rows, 1)[0]

    def own_rows(self) -> np.ndarray | None:
        return None

    def to_model(self) -> None:
        """They are the model's own."""

    def from_model(self) -> None:
        """They are the model's own."""

    def run(self, first: int, last: int, wants_stop: Callable[[], bool]) -> Iterator[Call]:
        with _named():
            yield from self._run(first, last, wants_stop)

    def _run(self, first: int, last: int, wants_stop: Callable[[], bool]) -> Iterator[Call]:
        if first % self._plan.order.steps_per_epoch == 0:
            self._epoch_state = np.zeros(self._metrics.size)
        handed_out, done, stop = first, first, False
        flying: collections.deque[tuple[int, Any]] = collections.deque()
        while done < last:
            while handed_out < last and not stop and len(flying) < IN_FLIGHT_PER_WORKER * self._workers:
                steps = min(self._pace.steps, last - handed_out)
                start, count = tf.constant(handed_out, tf.int64), tf.constant(steps, tf.int64)
                flying.append((steps, self._coordinator.schedule(self._train, args=(self._source, start, count))))
                handed_out += steps
            if not flying:
                return
            steps, result = flying.popleft()
            losses, state, seconds, worker = (part.numpy() for part in result.get())
            done += steps
            self._iterations.assign(done)
            self._pace = self._pace.after(steps, seconds)
            self._epoch_state = self._epoch_state + state
            stop = stop or wants_stop()
            rows, of = self._epoch_state[None], {f"worker:{worker}": (float(seconds) / steps, steps)}
            yield Call(steps, losses, self._metrics.results(self._epoch_state), stop, rows, of=of)

    def evaluate(self) -> Mapping[str, Any]:
        if self._evaluation is None:
            self._evaluation = self._make_evaluation(self._plan.dataset.validation)
        with _named():
            return self._metrics.results(self._evaluation())

    def agree(self, wish: int) -> int:
        return wish

    def finish(self) -> None:
        """Nobody waits for the chief: workers and parameter servers run until they are stopped."""

    # ---- data, resident on the workers

    def _open(self, examples: InMemory | Stream) -> Any:
        """Per-worker iterators: over the whole arrays, as one element again and again, or over a stream's batches."""
        plan = self._plan
        if isinstance(examples, Stream) and (plan.pipeline.cluster is not None or plan.pipeline.shard == "files"):
            raise Refusal(
                "the workers of a ParameterServer job draw from all examples, each for itself: leave "
                "cluster.data_workers and dataset.shard out, or use another strategy"
            )
        if isinstance(examples, Stream) and not plan.order.shuffle and self._workers > 1:
            raise Refusal(
                "shuffle is false, and each worker of a ParameterServer job would take the same examples of a "
                "stream in the same order: leave it out, or use another strategy"
            )
        if isinstance(examples, InMemory):
            arrays = resident(examples)  # captured, and so sent to each worker once; a constant could not exceed 2 GB

            def dataset() -> tf.data.Dataset:
                return tf.data.Dataset.from_tensors(arrays).repeat()
        else:

            def dataset() -> tf.data.Dataset:
                # Each worker draws in an order of its own, or all would take the same steps.
                return drawn_at_random(examples, plan.order, plan.pipeline)

        return iter(self._coordinator.create_per_worker_dataset(_sendable(dataset)))

    # ---- in the graph, on a worker

    def _train_memory(self, source: Any, start: tf.Tensor, count: tf.Tensor) -> Any:
        examples, order = self._plan.dataset.train, self._plan.order
        arrays = next(source)

        def batch(step: tf.Tensor) -> Any:
            return prepared(examples, take(arrays, order.indices(step, 0, order.batch_size)))

        return self._train_steps(batch, start, count)

    def _train_stream(self, source: Any, start: tf.Tensor, count: tf.Tensor) -> Any:
        return self._train_steps(lambda _: prepared(self._plan.dataset.train, next(source)), start, count)

    def _train_steps(self, batch: Callable[[tf.Tensor], Any], start: tf.Tensor, count: tf.Tensor) -> Any:
        began = tf.timestamp()

        def body(done: tf.Tensor, losses: tf.TensorArray, state: Any) -> Any:
            loss, _, state = self._strategy.run(
                lambda step, state: self._step(batch(step), self._metrics, state, number=step),
                args=(start + done, state),
            )
            return done + 1, losses.write(tf.cast(done, tf.int32), loss), list(state)

        losses = tf.TensorArray(tf.float32, size=tf.cast(count, tf.int32), element_shape=())
        variables = (tf.constant(0, tf.int64), losses, self._metrics.zeros())
        _, losses, state = tf.while_loop(lambda done, *_: done < count, body, variables, parallel_iterations=1)
        losses = losses.stack()
        with tf.control_dependencies([losses]):
            seconds = tf.timestamp() - began
        worker = tf.distribute.coordinator.experimental_get_current_worker_index()
        return losses, self._metrics.packed(state), seconds, worker

    # ---- validation

    def _make_evaluation(self, examples: InMemory | Stream) -> Callable[[], np.ndarray]:
        if isinstance(examples, Stream):
            return self._evaluation_here(examples)
        cells = Cells.of(examples.size, self._plan.order.batch_size, 1)
        source = self._open(examples)

        @tf.function(autograph=False)
        def evaluate(source: Any, first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
            arrays = next(source)

            def body(step: tf.Tensor, state: Any) -> Any:
                batch = prepared(examples, take(arrays, cells.indices(step, 0)))
                return step + 1, self._strategy.run(self._test, args=(batch, state))

            _, state = tf.while_loop(lambda step, _: step < last, body, (first, self._metrics.zeros()))
            return self._metrics.packed(state)

        def evaluate_all() -> np.ndarray:
            edges = [cells.steps * part // self._workers for part in range(self._workers + 1)]
            parts = [
                self._coordinator.schedule(
                    evaluate, args=(source, tf.constant(first, tf.int64), tf.constant(last, tf.int64))
                )
                for first, last in itertools.pairwise(edges)
                if first < last
            ]
            return sum(np.asarray(part.fetch()) for part in parts)

        return evaluate_all

    def _evaluation_here(self, stream: Stream) -> Callable[[], np.ndarray]:
        """A stream cannot be cut among workers without reading it on each, so the chief reads it once."""
        batches = self._plan.pipeline.ahead(self._plan.pipeline.examples(stream).batch(self._plan.order.batch_size))

        @tf.function(autograph=False, reduce_retracing=True)
        def evaluate_batch(batch: Any) -> tf.Tensor:
            return self._metrics.packed(self._test(batch, self._metrics.zeros()))

        return lambda: sum(evaluate_batch(batch).numpy() for batch in batches)

    def _test(self, batch: Any, state: Any) -> list[tf.Tensor]:
        # Within, Keras looks for the weights that have regularizers in the same scope.
        with self._metrics.read_from(state, self._plan.model.trainable_variables) as current:
            self._plan.model.test_step(batch)
            return current()
