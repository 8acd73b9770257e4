"""The learning rate in the course of a training: the linear scaling rule, and the warm-up before it.

Owns what `scale_learning_rate` and `warmup_steps` make of an optimizer's rate, be it a number or a schedule. An
optimizer that has been through here is saved as one of Keras's own.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from distrain.worker.model.keras_parts import inner_optimizer
from distrain.worker.refusal import Refusal

_RATES = ("initial_learning_rate", "end_learning_rate", "warmup_target", "values")
"""What the rates are called that Keras's schedules are made with. A schedule is linear in all of its rates together."""
_SETTERS = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """What `schedule` says, times a factor that rises from `start` to 1 over the first `steps` steps.

    To whoever asks for its class and its configuration, as Keras does to save a model, it is the schedule itself:
    Keras alone can load the model then, and a training that goes on from there is past its warm-up.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, start: float, steps: int) -> None:
        self._schedule = schedule
        self._start = start
        self._steps = steps

    def __call__(self, step: Any) -> Any:
        rate = ops.convert_to_tensor(self._schedule(step))
        done = ops.minimum(ops.cast(step, rate.dtype) / self._steps, 1.0)
        return rate * (self._start + (1.0 - self._start) * done)

    @property
    def __class__(self) -> type:
        return type(self._schedule)

    def get_config(self) -> dict[str, Any]:
        return self._schedule.get_config()


def set_rate(optimizer: keras.optimizers.Optimizer, given: Any, training: Mapping[str, Any], batch_size: int) -> None:
    """Scale the rate of `optimizer`, which has not been built, and let it rise, as `training` says. `given`: the
    schedule that it was made with, if that is known.

    Raises:
        Refusal: its rate is of the user's own making, and cannot be scaled or is not known.
    """
    base, steps = training["scale_learning_rate"], training["warmup_steps"]
    if not base and not steps:
        return
    factor = batch_size / base if base else 1.0
    start = 1.0 / factor if base else 0.0
    rate = given if isinstance(given, keras.optimizers.schedules.LearningRateSchedule) else _rate_of(optimizer)
    schedules = keras.optimizers.schedules
    if isinstance(rate, float):
        if steps:
            # Of Keras's own kinds: straight from the one rate to the other, where it stays.
            rate = schedules.PolynomialDecay(rate * factor * start, steps, rate * factor, power=1.0)
        else:
            rate *= factor
    else:
        rate = _scaled(rate, factor) if base else rate
        rate = Warmup(rate, start, steps) if steps else rate
    optimizer.learning_rate = rate


def check_callbacks(optimizer: keras.optimizers.Optimizer, callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """See that nobody sets a rate that a schedule says.

    Raises:
        Refusal: one of `callbacks` does.
    """
    optimizer = inner_optimizer(optimizer)
    for callback in callbacks:
        if isinstance(callback, _SETTERS) and isinstance(optimizer.get_config().get("learning_rate"), Mapping):
            raise Refusal(
                f"callback {type(callback).__name__} sets the learning rate, but so does a schedule, be it "
                "optimizer.learning_rate or training.warmup_steps: leave one of them out"
            )


def _rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The rate of `optimizer`: a float, or a schedule of Keras's own.

    Raises:
        Refusal: it is neither.
    """
    with contextlib.suppress(NotImplementedError, KeyError, TypeError, ValueError):
        rate = optimizer.get_config()["learning_rate"]
        if not isinstance(rate, Mapping):
            return float(rate)
        schedule = keras.optimizers.schedules.deserialize(rate)
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):  # of what it does not know, the name
            return schedule
    raise Refusal(
        f"training.scale_learning_rate and training.warmup_steps cannot tell what the learning rate of "
        f"{type(optimizer).__name__} is: give it a number or one of Keras's schedules, or leave them out"
    )


def _scaled(schedule: Any, factor: float) -> Any:
    """A schedule of the same kind, whose rates are `factor` times as large.

    Raises:
        Refusal: it is of the user's own kind.
    """
    if not any(type(schedule) is kind for kind in vars(keras.optimizers.schedules).values() if inspect.isclass(kind)):
        raise Refusal(
            f"training.scale_learning_rate cannot scale the schedule {type(schedule).__name__}, which is not one of "
            "Keras's own: leave it out, and let the schedule say the rates for this batch size"
        )
    config = schedule.get_config()
    for name in _RATES:
        if (rate := config.get(name)) is not None:
            config[name] = [each * factor for each in rate] if isinstance(rate, list | tuple) else rate * factor
    return type(schedule).from_config(config)
