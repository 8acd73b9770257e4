"""From the names under `training` to Keras objects: optimizer, learning-rate schedule, losses, metrics.

Owns how a name is looked up and what is said of one that does not exist. Called inside a strategy's scope.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import keras

from distrain.worker.model.rate import set_rate
from distrain.worker.names import check_arguments, parameters, resolve, suggestion
from distrain.worker.refusal import Refusal

_BY_SHAPE = frozenset({"accuracy", "acc", "crossentropy", "ce"})
"""Metrics that Keras itself makes binary, categorical or sparse, by the shapes of labels and predictions."""


def compile_model(model: keras.Model, training: Mapping[str, Any], batch_size: int) -> None:
    """Give `model` the optimizer, losses and metrics of the job, which trains it in batches of `batch_size`.

    A loss and metrics may be given for each output of the model, by its name. A model that comes compiled keeps nothing
    of it: the job decides.

    Raises:
        Refusal: a name that Keras does not know, or an argument that the named thing does not take.
    """
    loss, metrics = training["loss"], training["metrics"]
    model.compile(
        optimizer=make_optimizer(training, batch_size),
        loss=_loss(loss) if _is_one(loss) else {output: _loss(spec) for output, spec in loss.items()},
        metrics=(
            {output: [_metric(spec) for spec in specs] for output, specs in metrics.items()}
            if isinstance(metrics, Mapping)
            else [_metric(spec) for spec in metrics]
        ),
        jit_compile=training["jit_compile"],
    )


@contextlib.contextmanager
def losses_fit() -> Iterator[None]:
    """Within a compiled model is built, and its losses and metrics with it.

    Raises:
        Refusal: they do not fit what the model puts out, or the labels, by what Keras says of them.
    """
    try:
        yield
    except (KeyError, ValueError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") != "keras.src.trainers.compile_utils":
            raise
        (said, *_) = str(error.args[0]).splitlines()
        raise Refusal(
            f"training.loss or training.metrics does not fit the outputs of the model or the labels: {said}"
        ) from error


def _is_one(spec: Mapping[str, Any]) -> bool:
    """Whether `spec` is a name with its arguments, and not one for each output. (An output may be called name.)"""
    return isinstance(spec.get("name"), str)


def _loss(spec: Mapping[str, Any]) -> Any:
    return _got(keras.losses, keras.losses.Loss, "loss", spec)


def make_optimizer(training: Mapping[str, Any], batch_size: int) -> keras.optimizers.Optimizer:
    """The optimizer of a job that trains in batches of `batch_size`, its learning rate included.

    Raises:
        Refusal: as `compile_model`.
    """
    spec = training["optimizer"]
    args = dict(spec["args"])
    if isinstance(args.get("learning_rate"), Mapping):
        args["learning_rate"] = _schedule(args["learning_rate"])
    optimizer = make(keras.optimizers, keras.optimizers.Optimizer, "optimizer", spec["name"], args)
    set_rate(optimizer, args.get("learning_rate"), training, batch_size)
    return optimizer


def _schedule(spec: Mapping[str, Any]) -> keras.optimizers.schedules.LearningRateSchedule:
    """A schedule from `{name: …, args: {…}}` or `{name: …, …}`."""
    rest = dict(spec)
    name = rest.pop("name", None)
    if name is None:
        raise Refusal("learning_rate is a mapping without a name: write {name: ExponentialDecay, …}, or a number")
    args = {**rest.pop("args", {}), **rest}
    schedules = keras.optimizers.schedules
    schedule = make(schedules, schedules.LearningRateSchedule, "learning-rate schedule", name, args)
    try:
        schedule.get_config()
    except (AttributeError, NotImplementedError):
        raise Refusal(
            f"the learning-rate schedule {name} has no get_config, without which the trained model could not be saved: "
            "have it return what its constructor takes"
        ) from None
    return schedule


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
