"""From the names under `training` to Keras objects: optimizer, learning-rate schedule, loss, metrics.

Owns how a name is looked up and what is said of one that does not exist. Called inside a strategy's scope.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import keras

from distrain.worker.names import check_arguments, parameters, resolve, suggestion
from distrain.worker.refusal import Refusal

_BY_SHAPE = frozenset({"accuracy", "acc", "crossentropy", "ce"})
"""Metrics that Keras itself makes binary, categorical or sparse, by the shapes of labels and predictions."""


def compile_model(model: keras.Model, training: Mapping[str, Any]) -> None:
    """Give `model` the optimizer, loss and metrics of the job.

    A model that comes compiled keeps nothing of it: the job decides.

    Raises:
        Refusal: a name that Keras does not know, or an argument that the named thing does not take.
    """
    model.compile(
        optimizer=make_optimizer(training["optimizer"]),
        loss=_got(keras.losses, keras.losses.Loss, "loss", training["loss"]),
        metrics=[_metric(spec) for spec in training["metrics"]],
        jit_compile=training["jit_compile"],
    )


def make_optimizer(spec: Mapping[str, Any]) -> keras.optimizers.Optimizer:
    args = dict(spec["args"])
    if isinstance(args.get("learning_rate"), Mapping):
        args["learning_rate"] = _schedule(args["learning_rate"])
    return make(keras.optimizers, keras.optimizers.Optimizer, "optimizer", spec["name"], args)


def _schedule(spec: Mapping[str, Any]) -> keras.optimizers.schedules.LearningRateSchedule:
    """A schedule from `{name: …, args: {…}}` or `{name: …, …}`."""
    rest = dict(spec)
    name = rest.pop("name", None)
    if name is None:
        raise Refusal("learning_rate is a mapping without a name: write {name: ExponentialDecay, …}, or a number")
    args = {**rest.pop("args", {}), **rest}
    schedules = keras.optimizers.schedules
    return make(schedules, schedules.LearningRateSchedule, "learning-rate schedule", name, args)


def _metric(spec: Mapping[str, Any]) -> Any:
    if spec["name"].lower() in _BY_SHAPE and not spec["args"]:
        return spec["name"]
    return _got(keras.metrics, keras.metrics.Metric, "metric", spec)


def _got(module: ModuleType, kind: type, what: str, spec: Mapping[str, Any]) -> Any:
    """By the module's own `get` where there are no arguments, for it knows more names than there are classes."""
    name, args = spec["name"], spec["args"]
    if ":" not in name and not args:
        with contextlib.suppress(ValueError):  # told below, with the nearest name
            return module.get(name)
    return make(module, kind, what, name, args)


def make(module: ModuleType, kind: type, what: str, name: str, args: Mapping[str, Any]) -> Any:
    """What `name` means, made with `args`: a class of `module`, or whatever a `package.module:function` gives.

    Raises:
        Refusal: there is no such class or function, or it does not take these arguments.
        Exception: whatever a user's function raises.
    """
    if ":" in name:
        return _of_user(name, args)
    found = _find_class(module, kind, what, name)
    check_arguments(found, f"{what} {found.__name__}", args)
    try:
        return found(**args)
    except (TypeError, ValueError) as error:
        raise Refusal(f"{what} {found.__name__} refuses its arguments: {error}") from error


def _of_user(name: str, args: Mapping[str, Any]) -> Any:
    """What `package.module:function` gives. A class, and a function that can be called with `args`, is called;
    any other function is itself what was meant, as a loss of `(y_true, y_pred)` is.
    """
    function = resolve(name)
    if args or inspect.isclass(function) or not _needs_arguments(function):
        check_arguments(function, name, args)
        return function(**args)
    return function


def _needs_arguments(function: Callable[..., Any]) -> bool:
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
        for parameter in (parameters(function) or {}).values()
    )


def _find_class(module: ModuleType, kind: type, what: str, name: str) -> type:
    """The subclass of `kind` in `module` that `name` means, in Keras's spelling or in snake_case.

    Raises:
        Refusal: there is none; the nearest is named.
    """
    classes = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, kind) and value is not kind and not key.startswith("_")
    }
    plain = name.replace("_", "").lower()
    for key, value in classes.items():
        if key.lower() == plain:
            return value
    raise Refusal(f"Keras has no {what} named {name!r}{suggestion(name, classes)}")
