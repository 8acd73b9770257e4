"""The training loop, the same for every strategy: epochs, callbacks, validation, checkpoints, and telling of it.

Owns what happens between calls into a strategy; which examples a step sees is `feed`'s, how steps run the strategy's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import Dataset
from distrain.worker.input.feed import Order
from distrain.worker.model.keras_parts import has_own_train_step
from distrain.worker.refusal import Ending
from distrain.worker.strategies.interface import Call, Strategy
from distrain.worker.telemetry import METRICS_INTERVAL_S, PROGRESS_INTERVAL_S, Events
from distrain.worker.training.callback_states import CallbackStates
from distrain.worker.training.callbacks import go_on_writing
from distrain.worker.training.checkpoint import Checkpoints, Snapshot, Writer, variables_of
from distrain.worker.training.meter import Busy, Meter
from distrain.worker.training.place import Place
from distrain.worker.training.resume import Saved
from distrain.worker.training.turns import Turns
from distrain.worker.vitals import Preempted, Vitals


class NotFinite(Ending):
    """The loss is NaN or infinite, or a weight is, and the job says that this ends training. `step` counts from 1."""

    def __init__(self, step: int, what: str, policy: str) -> None:
        choices = "lower the learning rate, or look at the data"
        if policy == "stop":
            choices = "lower the learning rate, look at the data, or set watchdog.nan to rollback or ignore"
        super().__init__(f"{what}: {choices}", "nan", step=step)


@dataclass(frozen=True)
class Result:
    """What a training came to: whole `epochs`, `steps`, and the last metrics of `train` and `validation`."""

    epochs: int
    steps: int
    examples_per_s: float | None
    metrics: Mapping[str, Mapping[str, Any]]


class Loop:
    """Trains `model`, which `strategy` is bound to, from the beginning or from what was `saved`."""

    def __init__(
        self,
        assignment: Assignment,
        events: Events,
        vitals: Vitals,
        strategy: Strategy,
        model: keras.Model,
        dataset: Dataset,
        order: Order,
        callbacks: Mapping[str, keras.callbacks.Callback],
        saved: Saved | None = None,
    ) -> None:
        training, spec = assignment.training, assignment.job["checkpoint"]
        self._assignment = assignment
        self._events = events
        self._vitals = vitals
        self._strategy = strategy
        self._model = model
        self._dataset = dataset
        self._order = order
        self._saved = saved
        self._place = saved.place if saved else Place()
        self._meter = Meter(assignment.batch_size)
        self._busy = Busy()
        self._progress_at = -math.inf
        self._epochs = training["epochs"]
        evaluated_elsewhere = assignment.job["cluster"]["evaluators"] > 0
        self._validation_every = training["validation"] if dataset.validation and not evaluated_elsewhere else 0
        self._metrics_interval_s = 0.0 if training["steps_per_call"] else METRICS_INTERVAL_S
        self._nan_policy = assignment.job["watchdog"]["nan"]
        self._turns = Turns(spec)
        self._writer: Writer | None = None
        if spec and assignment.chief and assignment.checkpoints:
            folder = Checkpoints(assignment.checkpoints, spec["keep"], spec["keep_best"], self._place.step)
            self._writer = Writer(folder, assignment.run_dir, events, finite_only=self._looks_for_nan)
        # What the loop itself has to remember.
        self._step = self._place.step
        self._latest: dict[str, Mapping[str, Any]] = {"train": {}, "validation": {}}
        self._rows: np.ndarray | None = None
        self._seen_finite = not has_own_train_step(model)
        self._stop = False
        self._wanted = False
        model.stop_training = False
        self._states = CallbackStates(callbacks, events.note)
        self._callbacks = keras.callbacks.CallbackList(
            list(callbacks.values()),
            add_history=False,
            add_progbar=False,
            model=model,
            epochs=self._epochs,
            steps=order.steps_per_epoch,
            verbose=0,
        )

    @property
    def _looks_for_nan(self) -> bool:
        return self._nan_policy != "ignore"

    def run(self) -> Result:
        """Train.

        Raises:
            Preempted: somebody asked to leave. Whatever was to be written is on the disk.
            NotFinite: the loss is not finite. So it is.
            Refusal: what was saved is of something else.
        """
        self._begin()
        epochs_done = self._place.epoch
        epochs = range(epochs_done, 0 if self._place.over else self._epochs)
        if not epochs:
            self._strategy.to_model()
        for epoch in epochs:
            stops = self._epoch(epoch)
            epochs_done = epoch + 1
            if stops:
                break
        self._wait_for_writer()
        self._look_for_poison()
        with self._strategy.scope():
            self._model.optimizer.finalize_variable_values(self._model.trainable_variables)
        self._callbacks.on_train_end(dict(self._latest["train"]))
        return Result(epochs_done, self._step, self._meter.mean, self._latest)

    def _begin(self) -> None:
        saved, validation = self._saved, self._dataset.validation
        self._events.phase("training")
        if self._assignment.chief:
            self._events.send(
                "started",
                epochs=self._epochs,
                steps_per_epoch=self._order.steps_per_epoch,
                first_step=self._step,
                batch_size=self._order.batch_size,
                train_examples=self._dataset.train.size,
                validation_examples=validation.size if validation else 0,
            )
        if saved is None:
            self._strategy.restore(None, None)
            self._callbacks.on_train_begin()
            self._states.begin()
            return
        go_on_writing(self._callbacks.callbacks)
        # On_train_begin sets callbacks back, and may change the model, too: what was saved comes after it.
        self._callbacks.on_train_begin()
        self._states.begin()
        arrays = saved.read()
        with self._strategy.scope():
            saved.assign(self._model, self._strategy.variables, self._order.steps_per_epoch, arrays)
        self._rows = arrays.get("metrics") if self._place.begun else None
        self._strategy.restore(self._rows, arrays.get("replicas"))
        self._states.restore(saved.about["callbacks"], arrays)
        self._latest.update(saved.about["metrics"])
        self._vitals.step = self._step
        if self._assignment.chief:
            self._events.send("resumed", path=str(saved.path), step=self._step, epoch=self._place.epoch)

    def _epoch(self, epoch: int) -> bool:
        """Train what is left of `epoch`; whether it is the last because somebody wants to stop."""
        if not (self._place.begun and epoch == self._place.epoch):
            self._callbacks.on_epoch_begin(epoch)
        self._strategy.from_model()
        last = (epoch + 1) * self._order.steps_per_epoch
        while self._step < last and not self._stop:
            self._run_to(self._turns.station(self._step, last), epoch, last)
            if self._step < last and not self._stop and (self._wanted or self._turns.due_at(self._step)):
                self._save(epoch)
        self._strategy.to_model()
        logs = dict(self._latest["train"])
        score = None
        if self._validation_every and (epoch + 1) % self._validation_every == 0:
            self._events.phase("validating")
            self._callbacks.on_test_begin()
            with self._vitals.within("step"):
                found = self._strategy.evaluate()
            self._callbacks.on_test_end(dict(found))
            logs.update({f"val_{name}": value for name, value in found.items()})
            self._latest["validation"] = found
            self._tell_metrics(epoch, "validation", found)
            score = found.get("loss")
        else:
            self._events.phase("saving")
        self._callbacks.on_epoch_end(epoch, logs)
        stops = self._agree(self._stop or self._model.stop_training)
        ends = self._turns.any and (stops or epoch + 1 == self._epochs)
        if self._wanted or self._turns.due_at(self._step) or self._turns.due_after(epoch + 1) or ends:
            self._save(epoch + 1, epoch_ended=True, stopped=stops, score=score)
        self._events.phase("training")
        return stops

    def _run_to(self, station: int, epoch: int, last: int) -> None:
        """Train until `station`, or less far where somebody wants something else."""
        self._meter.resume()
        stop = False
        for call in self._calls(station):
            self._after(call, epoch, last)
            stop = call.stop
        if not stop:
            return
        # All tasks know that one of them wants something, and now also what.
        self._stop = self._agree(self._model.stop_training)
        if self._stop:
            return
        self._look_for_poison()
        if self._agree(self._vitals.asked_to_leave):
            self._leave(epoch)
        self._wanted = True

    def _calls(self, station: int) -> Iterator[Call]:
        calls = self._strategy.run(self._step, station, self._wants_stop)
        stops = False
        while True:
            if self._step < station and not stops:
                self._callbacks.on_train_batch_begin(self._step % self._order.steps_per_epoch)
            with self._vitals.within("step"):
                call = next(calls, None)
            if call is None:
                return
            stops = call.stop
            yield call

    def _wants_stop(self) -> bool:
        # A checkpoint needs all that is under way to be done, too.
        due = self._writer is not None and self._turns.due_by_time()
        return bool(self._model.stop_training) or self._vitals.asked_to_leave or due or self._poisoned_step > 0

    def _agree(self, wants: bool) -> bool:
        """Whether any task wants it."""
        return self._sum(int(bool(wants))) > 0

    def _sum(self, wish: int) -> int:
        with self._vitals.within("step"):
            return self._strategy.agree(wish)

    def _leave(self, epoch: int) -> None:
        if self._assignment.job["checkpoint"]:
            self._save(epoch)
        self._wait_for_writer()
        raise Preempted(self._step)

    def _after(self, call: Call, epoch: int, last: int) -> None:
        if self._looks_for_nan:
            self._look_for_nan(call)
        self._step += call.steps
        self._vitals.step = self._step
        self._rows = call.rows
        self._meter.count(call.steps)
        self._busy.count(call.steps, call.busy_s, call.of)
        ends = self._step == last or call.stop
        logs = dict(call.metrics)
        self._latest["train"] = logs
        self._callbacks.on_train_batch_end((self._step - 1) % self._order.steps_per_epoch, logs)
        if self._assignment.chief:
            shown = {**logs, "step_loss": float(call.losses[-1])}
            self._tell_metrics(epoch, "train", shown, 0.0 if ends else self._metrics_interval_s)
        if ends or time.monotonic() - self._progress_at >= PROGRESS_INTERVAL_S:
            self._progress_at = time.monotonic()
            self._events.send(
                "progress",
                epoch=epoch + 1,
                step=self._step,
                examples_per_s=self._meter.recent,
                step_s=self._meter.step_s,
                **self._busy.told(),
            )

    def _look_for_nan(self, call: Call) -> None:
        finite = np.isfinite(call.losses)
        # A train_step of the user's own need not tell a loss.
        self._seen_finite = self._seen_finite or bool(finite.any())
        if self._seen_finite and not finite.all():
            first = int(np.argmin(finite))
            self._wait_for_writer()
            step = self._step + first + 1
            raise NotFinite(step, f"the loss of step {step} is {float(call.losses[first])}", self._nan_policy)

    def _look_for_poison(self) -> None:
        """Layers can make a number of what is none: the loss need not tell. Called by all tasks at the same point, as
        the chief alone, who writes, sees it.
        """
        if self._looks_for_nan and self._assignment.job["checkpoint"] and (step := self._sum(self._poisoned_step)):
            raise NotFinite(step, f"a weight is not finite after step {step}", self._nan_policy)

    @property
    def _poisoned_step(self) -> int:
        """After which step the writer found a weight that is not finite; 0: none that this task knows of."""
        return self._writer.poisoned_step if self._writer is not None else 0

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

    def _save(self, epochs: int, *, epoch_ended: bool = False, stopped: bool = False, score: Any = None) -> None:
        """Have the state of now written. Called by all tasks that train, for the replicas' own variables."""
        started = time.monotonic()
        self._wanted = False
        own = self._strategy.own_rows()
        if not epoch_ended:
            self._strategy.to_model()
        if self._writer is not None:
            about, arrays = self._state(own, epochs, epoch_ended=epoch_ended, stopped=stopped, score=score)
            self._writer.submit(Snapshot(about, arrays, time.monotonic() - started))
            self._turns.taken()
        if not epoch_ended:
            self._strategy.from_model()

    def _state(
        self, own: np.ndarray | None, epochs: int, *, epoch_ended: bool, stopped: bool, score: Any
    ) -> tuple[Mapping[str, Any], Mapping[str, np.ndarray]]:
        """What a checkpoint of now says of itself, and its arrays."""
        groups = variables_of(self._model, self._strategy.variables)
        arrays = {f"{group}/{n}": v.numpy() for group, variables in groups.items() for n, v in enumerate(variables)}
        if not epoch_ended and self._rows is not None:
            arrays["metrics"] = self._rows
        if own is not None:
            arrays["replicas"] = own
        callbacks, of_callbacks = self._states.saved()
        about = {
            "step": self._step,
            "epoch": epochs,
            "seed": self._assignment.seed,
            "run": self._assignment.run,
            "attempt": self._assignment.attempt,
            "steps_per_epoch": self._order.steps_per_epoch,
            "batch_size": self._order.batch_size,
            "workers": self._assignment.workers,
            "finished": stopped or (epoch_ended and epochs >= self._epochs),
            "stopped": stopped,
            "epoch_ended": epoch_ended,
            "metrics": {split: _plain(metrics) for split, metrics in self._latest.items()},
            "score": score if isinstance(score, float) and math.isfinite(score) else None,
            "variables": {group: [v.path for v in variables] for group, variables in groups.items()},
            "callbacks": callbacks,
            "keras": keras.version(),
        }
        return about, arrays | of_callbacks

    def _wait_for_writer(self) -> None:
        """Until what this task was to save is on the disk. Others will soon wait for it."""
        if self._assignment.job["checkpoint"]:
            self._events.phase("saving")
        if self._writer is not None:
            self._writer.wait()


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in metrics.items()}
