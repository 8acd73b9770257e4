"""Keras callbacks in a loop that is not Keras's: which of them run in this task, and how often they are called.

All tasks that train call the same callbacks with the same logs, so that they decide alike; those of Keras that write
files run on the chief alone. `on_train_batch_*` come once per call from the host, with the index of its first and of
its last step; a callback of the user's own that has them gets them for every step, at the price of one call per step,
and under ParameterAveraging for every round.

A callback's name, `0-EarlyStopping`, is its place among all of the job's and its class: the same in every task.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from distrain.worker.model.recipe import make
from distrain.worker.refusal import Refusal

_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
)
_PER_STEP = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


def make_callbacks(specs: Sequence[Mapping[str, Any]], *, chief: bool) -> dict[str, keras.callbacks.Callback]:
    """The callbacks that run in this task, by name.

    Raises:
        Refusal: a name, an argument, or a callback that cannot work here.
    """
    return of_this_task([_make(spec["name"], spec["args"]) for spec in specs], chief=chief)


def of_this_task(callbacks: Sequence[keras.callbacks.Callback], *, chief: bool) -> dict[str, keras.callbacks.Callback]:
    """Those of `callbacks` that run in this task, by name."""
    named = {f"{place}-{type(callback).__name__}": callback for place, callback in enumerate(callbacks)}
    return {name: callback for name, callback in named.items() if chief or not isinstance(callback, _WRITERS)}


def go_on_writing(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Training is about to go on: what callbacks have written so far stays."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            callback.append = True


def wants_every_step(callbacks: Iterable[keras.callbacks.Callback]) -> bool:
    """Whether one of the user's own does something at each step."""
    return any(
        getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name)
        for callback in callbacks
        if not type(callback).__module__.startswith("keras.")
        for name in _PER_STEP
    )


def _make(name: str, args: Mapping[str, Any]) -> keras.callbacks.Callback:
    callback = make(keras.callbacks, keras.callbacks.Callback, "callback", name, args)
    if not isinstance(callback, keras.callbacks.Callback):
        raise Refusal(f"callback {name} gives a {type(callback).__name__}: it must give a keras.callbacks.Callback")
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        raise Refusal(
            "callback BackupAndRestore overwrites its only copy and knows no chief: "
            "remove it and write checkpoint: {every_epochs: 1} instead"
        )
    if isinstance(callback, keras.callbacks.TensorBoard) and importlib.util.find_spec("tensorboard") is None:
        raise Refusal(
            "callback TensorBoard needs the package tensorboard, which TensorFlow no longer brings along: "
            "pip install tensorboard, or remove the callback"
        )
    return callback
