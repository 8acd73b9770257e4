"""The training loop, the same for every strategy: epochs, callbacks, validation, checkpoints, and telling of it.

Owns what happens between calls into a strategy; which examples a step sees is `feed`'s, how steps run the strategy's.
`train` carries out a job; `train_model` is for whoever has made the model.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from distrain.worker import callbacks as callbacks_of
from distrain.worker.assignment import Assignment
from distrain.worker.checkpoint import Checkpoints, save_model
from distrain.worker.datasets import Dataset, load_dataset
from distrain.worker.feed import Order, Pipeline, shapes
from distrain.worker.models import build_model
from distrain.worker.recipe import compile_model
from distrain.worker.refusal import Refusal
from distrain.worker.runtime import configure
from distrain.worker.step import build
from distrain.worker.strategies.interface import Call, Plan, Strategy
from distrain.worker.telemetry import METRICS_INTERVAL_S, PROGRESS_INTERVAL_S, Events

SPEED_WINDOW_S = 2.0


def train(assignment: Assignment, events: Events, open_strategy: Callable[[Assignment, Events], Strategy]) -> None:
    """Train the job's model; the chief leaves it in the run directory.

    Raises:
        Refusal: the job is at fault.
    """
    training = assignment.training
    configure(assignment)
    callbacks = callbacks_of.make_callbacks(training["callbacks"], chief=assignment.chief)
    events.phase("connecting")
    strategy = open_strategy(assignment, events)  # before the user's code, whose first op would fix the devices
    events.phase("loading data")
    dataset = load_dataset(assignment.job["dataset"], events)
    order = make_order(dataset, assignment, events if assignment.chief else Events(None))
    events.phase("building the model")
    with strategy.scope():
        model = build_model(assignment.job["model"], dataset)
        compile_model(model, training)
        build(model, *shapes(dataset.train))
    result = train_model(assignment, events, strategy, model, dataset, order, callbacks)
    if assignment.chief:
        events.phase("saving")
        events.send("model", path=save_model(model, assignment.run_dir))
        events.send(
            "done",
            epochs=result.epochs,
            steps=result.steps,
            examples_per_s=result.examples_per_s,
            metrics=result.metrics,
        )
    else:
        events.send("done")
    strategy.finish()


@dataclass(frozen=True)
class Result:
    """What a training came to: whole `epochs`, `steps`, and the last metrics of `train` and `validation`."""

    epochs: int
    steps: int
    examples_per_s: float | None
    metrics: Mapping[str, Mapping[str, Any]]


def train_model(
    assignment: Assignment,
    events: Events,
    strategy: Strategy,
    model: keras.Model,
    dataset: Dataset,
    order: Order,
    callbacks: list[keras.callbacks.Callback],
) -> Result:
    """Train `model`, which was compiled and built in the scope of `strategy`. `strategy.finish` is left to the caller.

    Raises:
        Refusal: the strategy cannot train this model or dataset.
    """
    training = assignment.training
    steps_per_call = 1 if callbacks_of.wants_every_step(callbacks) else training["steps_per_call"]
    pipeline = Pipeline(training["cache"], training["prefetch"])
    strategy.bind(Plan(model, dataset, order, pipeline, training["jit_compile"], steps_per_call))
    events.ready(parameters=model.count_params(), replicas=strategy.replicas)
    return _Loop(assignment, events, strategy, model, dataset, order, callbacks).run()


def make_order(dataset: Dataset, assignment: Assignment, events: Events) -> Order:
    """How the examples make up epochs.

    Raises:
        Refusal: fewer examples than a batch, or a stream of unknown length and no `steps_per_epoch`.
    """
    training, batch_size = assignment.training, assignment.batch_size
    size, steps = dataset.train.size, training["steps_per_epoch"]
    if size is None:
        if steps is None:
            raise Refusal("the dataset does not say how many examples it has: set training.steps_per_epoch")
        size = steps * batch_size
    if size < batch_size:
        raise Refusal(
            f"the dataset has {size} training examples, fewer than one batch of {batch_size}: "
            f"set dataset.batch_size to {size} or less"
        )
    if steps is None:
        steps = size // batch_size
        if left := size % batch_size:
            events.note(
                f"each epoch leaves out {left} of {size} training examples, which do not fill a batch of {batch_size}"
            )
    return Order(size, batch_size, steps, assignment.seed, training["shuffle"])


@dataclass
class _Meter:
    """Examples per second: lately, and over all of training less the first call, validation and saving."""

    batch_size: int
    clock: Callable[[], float] = time.monotonic
    _recent: list[tuple[float, int]] = field(default_factory=list)
    _last: float = 0.0
    _seconds: float = 0.0
    _steps: int = 0
    _calls: int = 0

    def resume(self) -> None:
        """What comes from now on is training."""
        self._last = self.clock()

    def count(self, steps: int) -> None:
        now = self.clock()
        seconds, self._last = now - self._last, now
        self._calls += 1
        if self._calls == 1:
            return
        self._seconds += seconds
        self._steps += steps
        self._recent.append((seconds, steps))
        while len(self._recent) > 1 and sum(s for s, _ in self._recent[1:]) >= SPEED_WINDOW_S:
            self._recent.pop(0)

    @property
    def step_s(self) -> float | None:
        steps = sum(steps for _, steps in self._recent)
        return sum(seconds for seconds, _ in self._recent) / steps if steps else None

    @property
    def recent(self) -> float | None:
        return self.batch_size / self.step_s if self.step_s else None

    @property
    def mean(self) -> float | None:
        return self._steps * self.batch_size / self._seconds if self._seconds else None


class _Loop:
    def __init__(
        self,
        assignment: Assignment,
        events: Events,
        strategy: Strategy,
        model: keras.Model,
        dataset: Dataset,
        order: Order,
        callbacks: list[keras.callbacks.Callback],
    ) -> None:
        training = assignment.training
        self._assignment = assignment
        self._events = events
        self._strategy = strategy
        self._model = model
        self._dataset = dataset
        self._order = order
        self._meter = _Meter(assignment.batch_size)
        self._epochs = training["epochs"]
        self._metrics_interval_s = 0.0 if training["steps_per_call"] else METRICS_INTERVAL_S
        self._checkpoint = assignment.job["checkpoint"]
        self._checkpoints = Checkpoints(assignment.run_dir, self._checkpoint["keep"]) if self._checkpoint else None
        self._step = 0
        self._stop = False
        self._latest: dict[str, Mapping[str, Any]] = {"train": {}, "validation": {}}
        model.stop_training = False
        self._callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_history=False,
            add_progbar=False,
            model=model,
            epochs=self._epochs,
            steps=order.steps_per_epoch,
            verbose=0,
        )

    def run(self) -> Result:
        chief, events = self._assignment.chief, self._events
        events.phase("training")
        if chief:
            validation = self._dataset.validation
            events.send(
                "started",
                epochs=self._epochs,
                steps_per_epoch=self._order.steps_per_epoch,
                first_step=self._step,
                batch_size=self._order.batch_size,
                train_examples=self._dataset.train.size,
                validation_examples=validation.size if validation else 0,
            )
        self._callbacks.on_train_begin()
        epochs_done = 0
        for epoch in range(self._epochs):
            self._epoch(epoch)
            epochs_done = epoch + 1
            if self._strategy.agree(self._stop or self._model.stop_training):
                break
        self._callbacks.on_train_end(dict(self._latest["train"]))
        return Result(epochs_done, self._step, self._meter.mean, self._latest)

    def _epoch(self, epoch: int) -> None:
        self._callbacks.on_epoch_begin(epoch)
        first = epoch * self._order.steps_per_epoch
        last = first + self._order.steps_per_epoch
        for start, stop in itertools.pairwise(self._stations(first, last)):
            self._meter.resume()
            for call in self._strategy.run(start, stop, lambda: bool(self._model.stop_training)):
                self._after(call, epoch, last)
            if self._stop:
                break
            if self._due(stop) and stop < last:
                self._save(epoch)
        logs = dict(self._latest["train"])
        every = self._assignment.training["validation"]
        if every and (epoch + 1) % every == 0 and self._dataset.validation is not None:
            found = self._strategy.evaluate()
            logs.update({f"val_{name}": value for name, value in found.items()})
            self._latest["validation"] = found
            self._tell_metrics(epoch, "validation", found)
        self._callbacks.on_epoch_end(epoch, logs)
        every_epochs = self._checkpoint and self._checkpoint["every_epochs"]
        due = (every_epochs and (epoch + 1) % every_epochs == 0) or self._due(last)
        if due and not self._stop:
            self._save(epoch + 1)

    def _stations(self, first: int, last: int) -> Iterator[int]:
        """The steps between `first` and `last` at which the host must stop, both included."""
        every = (self._checkpoint and self._checkpoint["every_steps"]) or math.inf
        yield first
        station = (first // every + 1) * every if every < math.inf else math.inf
        while station < last:
            yield int(station)
            station += every
        yield last

    def _due(self, step: int) -> bool:
        every = self._checkpoint and self._checkpoint["every_steps"]
        return bool(every) and step % every == 0

    def _after(self, call: Call, epoch: int, last: int) -> None:
        self._step += call.steps
        self._meter.count(call.steps)
        # A last step that was `stop` is not the epoch's last, but nothing follows it.
        self._stop = self._stop or call.stop
        ends = self._step == last or call.stop
        logs = dict(call.metrics)
        self._latest["train"] = logs
        self._callbacks.on_train_batch_end((self._step - 1) % self._order.steps_per_epoch, logs)
        if self._assignment.chief:
            shown = {**logs, "step_loss": float(call.losses[-1])}
            self._tell_metrics(epoch, "train", shown, 0.0 if ends else self._metrics_interval_s)
        self._events.send_at_most(
            0.0 if ends else PROGRESS_INTERVAL_S,
            "progress",
            epoch=epoch + 1,
            step=self._step,
            examples_per_s=self._meter.recent,
            step_s=self._meter.step_s,
        )

    def _tell_metrics(self, epoch: int, split: str, metrics: Mapping[str, Any], interval_s: float = 0.0) -> None:
        if self._assignment.chief:
            self._events.send_at_most(
                interval_s,
                "metrics",
                epoch=epoch + 1,
                step=self._step,
                split=split,
                metrics=metrics,
                examples_per_s=self._meter.recent,
            )

    def _save(self, epochs: int) -> None:
        if self._checkpoints is None or not self._assignment.chief:
            return
        started = time.monotonic()
        try:
            path = self._checkpoints.save(self._model, step=self._step, epoch=epochs, seed=self._assignment.seed)
        except OSError as error:  # a full disk, say: the training is worth more than its checkpoint
            sentence = f"the checkpoint of step {self._step} could not be written, and training goes on: {error}"
            self._events.note(sentence, level="warning")
            return
        self._events.send("checkpoint", path=path, step=self._step, seconds=time.monotonic() - started)
