"""The table of Keras's names says what the installed Keras says."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

import pytest

from distrain.job.file import keras_names
from distrain.job.file.keras_names import CALLBACKS, LOSSES, METRICS, OPTIMIZERS, SCHEDULES, Family

pytestmark = pytest.mark.tensorflow

NOT_FOR_JOBS = {
    "Optimizer", "MultiOptimizer", "OptimizerMap", "LossScaleOptimizer", "Loss", "LossFunctionWrapper", "Metric",
    "MeanMetricWrapper", "Mean", "Sum", "LearningRateSchedule", "Callback", "CallbackList", "History", "ProgbarLogger",
}  # fmt: skip
# Exported by Keras, though its `get` does not know them: the worker finds them as classes.
NOT_FOR_GET = {"Lamb", "lamb", "CategoricalGeneralizedCrossEntropy", "categorical_generalized_cross_entropy"}
BY_SHAPE = {"acc"}


def classes(module: ModuleType, kind: type) -> dict[str, type]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, kind) and name == value.__name__ and name not in NOT_FOR_JOBS
    }


def arguments(found: Any) -> dict[str, bool]:
    """Each argument's name, and whether it must be given."""
    parameters = list(inspect.signature(found.__init__).parameters.values())[1:]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        parameter.name: parameter.default is parameter.empty for parameter in parameters if parameter.kind not in kinds
    }


def check(family: Family, found: dict[str, type]) -> None:
    assert set(family.classes) == set(found) - set(family.unusable)
    for name in family.classes:
        expected = arguments(found[name])
        assert set(family.arguments(name)) == set(expected), name
        assert set(family.required(name)) == {argument for argument, needed in expected.items() if needed}, name


def test_the_table_is_keras() -> None:
    import keras

    check(OPTIMIZERS, classes(keras.optimizers, keras.optimizers.Optimizer))
    check(LOSSES, classes(keras.losses, keras.losses.Loss))
    check(METRICS, classes(keras.metrics, keras.metrics.Metric))
    check(SCHEDULES, classes(keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule))
    check(CALLBACKS, classes(keras.callbacks, keras.callbacks.Callback))
    assert all(hasattr(keras.callbacks, name) for name in CALLBACKS.unusable)
    functions = {name: value for name, value in vars(keras.applications).items() if inspect.isfunction(value)}
    takes = {
        f"keras.applications.{name}": set(inspect.signature(value).parameters) for name, value in functions.items()
    }
    assert {name: set(words.split()) for name, words in keras_names.APPLICATIONS.items()} == takes


def test_metrics_are_logged_under_the_names_that_the_table_says() -> None:
    import keras
    import numpy as np

    arguments = {"num_classes": 3, "target_class_ids": [1]}
    for name in METRICS.classes:
        given = {"dtype": "float32", **{key: arguments.get(key, 0.5) for key in METRICS.required(name)}}
        made = getattr(keras.metrics, name)(**given)
        assert re.fullmatch(f"{keras_names.logged_name(name, given)}(_[0-9]+)?", made.name), name
    for name in ("acc", "accuracy", "Accuracy"):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
        model.compile(loss="sparse_categorical_crossentropy", metrics=[name])
        logs = model.evaluate(np.zeros((4, 2)), np.zeros(4), verbose=0, return_dict=True)
        assert set(logs) == {"loss", keras_names.logged_name(name, {})}


def test_keras_finds_every_name_that_the_table_accepts() -> None:
    import keras

    for name in set(OPTIMIZERS.names) - NOT_FOR_GET:
        assert type(keras.optimizers.get(name)).__name__ == OPTIMIZERS.class_of(name)
    for name in set(LOSSES.names) - NOT_FOR_GET:
        assert callable(keras.losses.get(name))
    needless = [name for name in METRICS.names if not METRICS.required(METRICS.class_of(name) or "")]
    for name in set(needless) - BY_SHAPE:
        assert type(keras.metrics.get(name)).__name__ == METRICS.class_of(name)
