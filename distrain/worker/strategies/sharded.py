"""ModelParallel and Hybrid: each weight in parts on several devices, which compute every example together.

Both are one program over a mesh of batch x model devices, which DTensor divides: ModelParallel's has one row, all of
whose devices see the whole batch; of Hybrid's rows each sees a part of it. Owns what a step is and when; where values
are is `shards`'s, which weight is divided how is `layout`'s.
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

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import InMemory
from distrain.worker.input.feed import (
    MemoryFeed,
    Share,
    StreamFeed,
    prepared,
    resident,
    split,
    take,
    validation_batches,
)
from distrain.worker.model.class_weights import ClassWeights
from distrain.worker.model.keras_parts import has_own_train_step, inner_optimizer
from distrain.worker.model.metric_state import MetricState
from distrain.worker.refusal import Refusal
from distrain.worker.strategies.interface import Call, Plan
from distrain.worker.strategies.layout import Grid, Layout, Weight, layouts, of_slot
from distrain.worker.strategies.pace import Pace
from distrain.worker.strategies.rehearsal import refuse, zeros
from distrain.worker.strategies.shards import Mesh, Shards, connect, local
from distrain.worker.strategies.stand_ins import stand_ins
from distrain.worker.strategies.weights import weights_of
from distrain.worker.telemetry import Events


def open_strategy(assignment: Assignment, events: Events) -> Sharded:
    spec, devices = assignment.job["strategy"], assignment.job["cluster"]["devices_per_worker"]
    if assignment.training["jit_compile"]:
        raise Refusal(
            f"training.jit_compile has XLA make the step, which under {spec['name']} is DTensor's: leave it out"
        )
    mesh = spec["mesh"] or {"batch": 1, "model": assignment.workers * devices}
    grid = Grid(mesh["batch"], mesh["model"], devices, assignment.index)
    if grid.workers != assignment.workers:
        raise Refusal(
            f"strategy.mesh has {grid.batch} x {grid.model} devices, but {assignment.workers} workers with {devices} "
            f"each (cluster.devices_per_worker) have {assignment.workers * devices}: let them be equal"
        )
    told = events if assignment.chief else Events(None)
    return Sharded(connect(assignment, grid), spec["name"], spec["layout"], told)


class Sharded:
    """`given`: the job's layout by regular expressions, None: distrain chooses."""

    variables: Sequence[keras.Variable] = ()

    def __init__(self, mesh: Mesh, name: str, given: Mapping[str, Sequence[str | None]] | None, events: Events) -> None:
        self._mesh = mesh
        self._grid = mesh.grid
        self._name = name
        self._given = given
        self._events = events
        self.replicas = mesh.grid.batch

    def scope(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def bind(self, plan: Plan) -> None:
        model, train, rows = plan.model, plan.dataset.train, self._grid.rows
        if has_own_train_step(model):
            raise Refusal(
                f"the model has a train_step of its own, which strategy {self._name} cannot divide: leave train_step "
                "to Keras, or use another strategy"
            )
        if (
            not isinstance(train, InMemory)
            and self._grid.model > self._grid.devices
            and not plan.pipeline.deterministic
        ):
            raise Refusal(
                "workers that compute the same examples together must read them in the same order: "
                "set dataset.deterministic to true"
            )
        weights = weights_of(model)
        found = layouts(weights, self._given, self._grid)
        held, of = (sum(counts) for counts in zip(*map(self._grid.held, weights, found), strict=True))
        self._events.note(f"each device of the mesh holds {held:,} of the model's {of:,} numbers")
        self._plan = plan
        self._metrics = MetricState(model)
        self._variables = _once([*model.variables, *model.optimizer.variables])
        self._shards = Shards(
            self._mesh, _once([*self._variables, *self._metrics.variables]), self._layouts(weights, found)
        )
        share = Share(first=rows[0], count=len(rows), replicas=self._grid.batch)
        if isinstance(train, InMemory):
            self._feed = MemoryFeed(train, plan.order, share)
        else:
            self._feed = StreamFeed(train, plan.order, share, plan.pipeline)
        self._class_weights = ClassWeights(plan.class_weight) if plan.class_weight else None
        self._pace = Pace.of(plan.steps_per_call)
        self._source: Any = None
        self._parts = tf.function(self._parts_of_batch, autograph=False)
        self._train = tf.function(self._train_step, autograph=False)
        self._test = tf.function(self._test_step, autograph=False)
        self._rehearse()

    def restore(self, rows: np.ndarray | None, own: np.ndarray | None) -> None:
        held = self._metrics.unpacked(self._metrics.dealt(rows, 1)[0])
        for variable, value in zip(self._metrics.variables, held, strict=True):
            variable.assign(value)
        self._shards.push(self._metrics.variables)

    def own_rows(self) -> np.ndarray | None:
        return None

    def to_model(self) -> None:
        self._shards.pull(self._variables)

    def from_model(self) -> None:
        self._shards.push(self._variables)

    def run(self, first: int, last: int, wants_stop: Callable[[], bool]) -> Iterator[Call]:
        if first % self._plan.order.steps_per_epoch == 0:
            self._reset()
            self._source = self._feed.open(first)
        elif self._source is None:
            self._source = self._feed.open(first)
        step = first
        while step < last:
            steps = self._pace.rounds_of(last - step)
            started = time.monotonic()
            self._heed_rate()
            losses = [self._train(self._batch(number)) for number in range(step, step + steps)]
            losses = np.float32([local(loss) for loss in losses])
            rows = self._rows()
            # The sum over all tasks, so that all of them choose the same number of steps.
            stop, seconds = self._mesh.summed([float(wants_stop()), time.monotonic() - started])
            self._pace = self._pace.after(steps, seconds / self._grid.workers)
            step += steps
            yield Call(steps, losses, self._metrics.results(rows[0]), bool(stop), rows)
            if stop:
                return

    def evaluate(self) -> Mapping[str, Any]:
        self._shards.push(self._variables)  # a callback may have changed them: some validate with other weights
        self._reset()
        for batch in self._validation():
            self._test(batch)
        return self._metrics.results(self._rows()[0])

    def agree(self, wish: int) -> int:
        return round(self._mesh.summed([float(wish)])[0])

    def finish(self) -> None:
        # As under MultiWorkerMirrored: nobody leaves before the chief has saved.
        with contextlib.suppress(tf.errors.OpError):
            self.agree(0)

    # ---- on the host

    def _layouts(self, weights: Sequence[Weight], found: Sequence[Layout]) -> list[Layout]:
        """Of all that the mesh is to hold: the optimizer's as their weights', and what metrics hold is whole."""
        of_model = {id(v): layout for v, layout in zip(self._plan.model.variables, found, strict=True)}
        return [
            of_model.get(id(v)) or of_slot(v.name, tuple(v.shape), weights, found)
            for v in _once([*self._variables, *self._metrics.variables])
        ]

    def _reset(self) -> None:
        self._metrics.reset()
        self._shards.push(self._metrics.variables)

    def _rows(self) -> np.ndarray:
        """float64[1, n]: what the metrics hold."""
        values = self._shards.here(self._metrics.variables)
        return np.concatenate([np.float64(value).reshape(-1) for value in values])[np.newaxis]

    def _heed_rate(self) -> None:
        """A callback may have set the learning rate since the last call, and may read the count of steps."""
        optimizer = inner_optimizer(self._plan.model.optimizer)
        count = optimizer._iterations
        count.assign(self._shards.here([count])[0])
        rate = optimizer._learning_rate
        if isinstance(rate, keras.Variable):
            self._shards.push([rate])

    def _batch(self, step: int) -> Any:
        return self._mesh.batch(self._parts(tf.constant(step, tf.int64), self._source))

    def _parts_of_batch(self, step: tf.Tensor, source: Any) -> list[Any]:
        return [self._weighted(self._feed.prepared(part)) for part in self._feed.batches(step, source)]

    def _weighted(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._class_weights(*batch) if self._class_weights else batch

    def _validation(self) -> Iterator[Any]:
        """All examples in batches on the mesh. A last one that does not divide equally is seen by all devices alike."""
        examples, size, rows = self._plan.dataset.validation, self._plan.order.batch_size, self._grid.rows
        if isinstance(examples, InMemory):
            arrays = resident(examples)
            places = (tf.range(first, min(first + size, examples.size)) for first in range(0, examples.size, size))
            batches: Any = (prepared(examples, take(arrays, indices)) for indices in places)
        else:
            batches = validation_batches(examples, size, Share(first=0, count=1, replicas=1), self._plan.pipeline)
        for batch in batches:
            if tf.nest.flatten(batch)[0].shape[0] % self._grid.batch:
                yield self._mesh.alike(batch)
            else:
                yield self._mesh.batch(split(batch, self._grid.batch)[rows.start : rows.stop])

    def _rehearse(self) -> None:
        """A step that does not count, so that what DTensor cannot divide is found before training.

        Raises:
            Refusal: it found something.
        """
        part = self._plan.order.batch_size // self._grid.batch
        batch = self._weighted(zeros(self._plan.dataset.train, part, self._name))
        on_mesh = self._mesh.batch([batch] * len(self._grid.rows))
        try:
            local(self._train(on_mesh))
        except tf.errors.OpError as error:
            refuse(error, self._plan.model, self._train.get_concrete_function(on_mesh).graph, self._name)
            raise

    # ---- in the graph

    def _train_step(self, batch: tuple[Any, ...]) -> tf.Tensor:
        """The loss over the whole batch, after which the weights have changed."""
        model, (x, y, weights) = self._plan.model, (*batch, None)[:3]
        with self._stateless() as scope:
            variables = model.trainable_variables
            values = [scope.get_current_value(variable) for variable in variables]
            with tf.GradientTape() as tape:
                tape.watch(values)
                y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
                loss = model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights, training=True)
                scaled = model.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, values)
            # A weight that the loss does not depend on has no gradient; of an embedding's, few rows are there.
            pairs = [(tf.convert_to_tensor(g), v) for g, v in zip(gradients, variables, strict=True) if g is not None]
            model.optimizer.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
            model._loss_tracker.update_state(loss, sample_weight=tf.nest.flatten(x)[0].shape[0])
            model.compute_metrics(x, y, y_pred, sample_weight=weights)
        return tf.cast(loss, tf.float32)

    def _test_step(self, batch: tuple[Any, ...]) -> None:
        with self._stateless():
            self._plan.model.test_step(batch)

    @contextlib.contextmanager
    def _stateless(self) -> Iterator[keras.StatelessScope]:
        """Within, variables hold what is on the mesh, which afterwards holds what became of it."""
        values = self._shards.values()
        with stand_ins(self._mesh.on), keras.StatelessScope(state_mapping=values, collect_losses=True) as scope:
            yield scope
        self._shards.assign(values, scope)


def _once(variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    return list({id(variable): variable for variable in variables}.values())
