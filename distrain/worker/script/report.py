"""What a user's script says of its training: `distrain.report(step=…, loss=…)`, and a Keras callback that does so.

Owns what of it is sent, by whom and how often: every task tells how far it is, the chief alone what its metrics are,
and an evaluator's are those of validation. Costs next to nothing without a launcher. Standard library only.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain.wire import EVENTS_FD_VARIABLE
from distrain.worker.telemetry import PROGRESS_INTERVAL_S, Events
from distrain.worker.vitals import Vitals


@functools.cache
def events_of_this_process() -> Events:
    """The stream of events that this task was given. Programs that it starts do not inherit it."""
    events = Events.from_environment()
    os.environ.pop(EVENTS_FD_VARIABLE, None)
    return events


@functools.cache
def vitals_of_this_process() -> Vitals:
    """What tells the launcher that this process lives. SIGTERM stays what the user's script makes of it."""
    vitals = Vitals(events_of_this_process())
    vitals.stacks()
    return vitals


def report(
    step: int,
    *,
    epoch: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    split: str = "train",
    examples_per_s: float | None = None,
    **metrics: Any,
) -> None:
    """Tell the launcher that `step` steps are done, and what the metrics are by now.

    Called as often as is convenient, at every step too: what comes faster than it can be shown is left out, but never
    the last of it. Metrics may be whatever `float` takes, such as a tensor of TensorFlow's or PyTorch's; its value is
    fetched only when it is sent. Does nothing when the process was not started by distrain.

    Args:
        step: how many steps are done since the training began.
        epoch: the current epoch, counted from 1; `epochs`: how many there will be.
        steps: how many steps there will be in all, from which the time that is left is told.
        split: `train` or `validation`; the latter is sent at once.
        examples_per_s: of the whole cluster.

    Raises:
        ValueError: a number that is none, or another `split`.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split is {split!r}: it is 'train' or 'validation'")
    vitals_of_this_process().step = int(step)
    _reporter().take(
        _Report(
            int(step),
            None if epoch is None else int(epoch),
            None if steps is None else int(steps),
            None if epochs is None else int(epochs),
            split,
            None if examples_per_s is None else float(examples_per_s),
            # A tensor of PyTorch's may hold on to all that it was computed from.
            {name: value.detach() if hasattr(value, "detach") else value for name, value in metrics.items()},
        )
    )


@dataclass(frozen=True)
class _Report:
    step: int
    epoch: int | None
    steps: int | None
    epochs: int | None
    split: str
    examples_per_s: float | None
    metrics: Mapping[str, Any]


class _Reporter:
    """Sends what is due, and when an epoch or the process ends, what had been left out of it."""

    def __init__(self, events: Events, *, role: str | None, chief: bool) -> None:
        self._events = events
        self._evaluates = role == "evaluator"
        self._tells_metrics = chief or self._evaluates
        self._waiting: _Report | None = None
        self._sent_at = -math.inf

    def take(self, told: _Report) -> None:
        if self._waiting is not None and told.epoch != self._waiting.epoch:
            self.flush()
        if self._evaluates or told.split == "validation":
            self._send(told)
            return
        self._waiting = told
        if time.monotonic() - self._sent_at >= PROGRESS_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        if self._waiting is not None:
            told, self._waiting = self._waiting, None
            self._sent_at = time.monotonic()
            self._send(told)

    def _send(self, told: _Report) -> None:
        if self._tells_metrics and told.metrics:
            self._events.send(
                "metrics",
                epoch=told.epoch,
                step=told.step,
                split="validation" if self._evaluates else told.split,
                metrics=told.metrics,
                examples_per_s=told.examples_per_s,
            )
        if not self._evaluates:
            self._events.send(
                "progress",
                epoch=told.epoch,
                step=told.step,
                epochs=told.epochs,
                steps=told.steps,
                examples_per_s=told.examples_per_s,
            )


@functools.cache
def _reporter() -> _Reporter:
    reporter = _Reporter(
        events_of_this_process(),
        role=os.environ.get("DISTRAIN_ROLE"),
        chief=os.environ.get("DISTRAIN_CHIEF") == "1",
    )
    atexit.register(reporter.flush)
    return reporter


def keras_callback() -> Any:
    """A Keras callback for `model.fit(callbacks=[…])` that reports every batch, epoch and validation.

    It belongs to Keras 3, or to tf-keras where TF_USE_LEGACY_KERAS makes `tf.keras` that.
    """
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        import tf_keras as keras
    else:
        import keras

    class Reporting(keras.callbacks.Callback):
        """Calls `distrain.report`."""

        def on_train_begin(self, logs: Any = None) -> None:
            self._done = 0
            self._batch = 0
            self._epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch = epoch
            self._batch = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._batch = batch + 1
            self._report(logs)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs = logs or {}
            self._report({name: value for name, value in logs.items() if not name.startswith("val_")})
            found = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
            if found:
                self._report(found, "validation")
            self._done += self._batch
            self._batch = 0

        def _report(self, logs: Any, split: str = "train") -> None:
            epochs, per_epoch = self.params.get("epochs"), self.params.get("steps")
            report(
                self._done + self._batch,
                epoch=self._epoch + 1,
                epochs=epochs,
                steps=epochs * per_epoch if epochs and per_epoch else None,
                split=split,
                **(logs or {}),
            )

    return Reporting()
