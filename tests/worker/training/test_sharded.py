"""Weights in parts on several devices: the mathematics of one device, from one process or several."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from distrain.job.spec import CheckpointSpec, DatasetSpec, JobSpec, MeshSpec, Named
from distrain.launcher.supervise.failures import CONSEQUENCES

from .conftest import wait_until
from .test_train_resume import assert_resumes_exactly

pytestmark = pytest.mark.tensorflow

STEPS = 30
SGD = Named("SGD", {"learning_rate": 0.05, "momentum": 0.9, "global_clipnorm": 0.5})
SQUARE = MeshSpec(batch=2, model=2)
WAYS = {
    "ModelParallel-1x2": {"strategy": "ModelParallel", "devices": 2},
    "ModelParallel-2x1": {"strategy": "ModelParallel", "workers": 2},
    "Hybrid-1x4": {"strategy": "Hybrid", "mesh": SQUARE, "devices": 4},
    "Hybrid-2x2": {"strategy": "Hybrid", "mesh": SQUARE, "workers": 2, "devices": 2},
}
"""By name-workers x devices."""


def losses(start: Callable[[JobSpec], Any], make_job: Callable[..., JobSpec], **keys: Any) -> list[float]:
    spec = make_job(**{"optimizer": SGD, "batch_size": 96, "epochs": 3, "steps_per_call": 1, "validation": 0} | keys)
    found = start(spec).succeed().chief.losses()
    assert len(found) == 42
    return found[:STEPS]


def last_metrics(task: Any, split: str) -> dict[str, float]:
    return [event["metrics"] for event in task.of("metrics") if event["split"] == split][-1]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_losses_are_those_of_one_device(model: str, start: Callable[..., Any], make_job: Any) -> None:
    named = Named(model, {"dropout": 0.2})
    expected = losses(start, make_job, model=named)
    assert expected[-1] < 0.9 * expected[0], "nothing was learnt, so equal losses would show nothing"
    for name, where in WAYS.items():
        assert losses(start, make_job, model=named, **where) == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("way", ["ModelParallel-2x1", "Hybrid-1x4"])
def test_metrics_and_validation_are_those_of_one_device(way: str, start: Callable[..., Any], make_job: Any) -> None:
    """359 examples in batches of 96 leave an odd rest."""
    common = {"model": Named("cnn"), "optimizer": SGD, "batch_size": 96, "steps_per_call": 4}
    one, other = (start(make_job(**common, **where)).succeed().chief for where in ({}, WAYS[way]))
    for split in ("train", "validation"):
        expected, found = (
            [e["metrics"] for e in task.of("metrics") if e["split"] == split][-1] for task in (one, other)
        )
        assert found == pytest.approx(expected, rel=1e-5), split


def test_devices_hold_parts_and_say_so(start: Callable[..., Any], make_job: Any) -> None:
    """Of 64 x 128 + 128 and 128 x 10 + 10 numbers, the first two are divided, or what the layout says."""
    where = {**WAYS["ModelParallel-1x2"], "steps_per_epoch": 2, "validation": 0}
    notes = [e["message"] for e in start(make_job(**where)).succeed().chief.of("note")]
    assert "each device of the mesh holds 5,450 of the model's 9,610 numbers" in notes
    given = make_job(**where, layout={"dense_1/kernel": ("model", None)})
    notes = [e["message"] for e in start(given).succeed().chief.of("note")]
    assert "each device of the mesh holds 8,970 of the model's 9,610 numbers" in notes


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"layout": {"conv/kernel": (None,)}}, "'conv/kernel' is found in no variable's path: the nearest are"),
        ({"model": Named("sharded_models:recurrent")}, "in layer lstm: give a recurrent layer unroll: True"),
        (
            {"model": Named("sharded_models:flipping")},
            "divide ReverseV2 in layer random_flip: replace the layer",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_before_training(
    keys: dict[str, Any], sentence: str, start: Callable[..., Any], make_job: Any
) -> None:
    chief = start(make_job(**(WAYS["ModelParallel-1x2"] | keys))).wait().chief
    assert chief.status == 2, chief.text
    assert sentence in chief.of("failure")[0]["message"]
    assert not chief.of("started")


@pytest.mark.parametrize("way", ["ModelParallel-1x2", "Hybrid-1x4"])
@pytest.mark.parametrize("model", ["transformer", "convolved", "subclassed"])
def test_models_of_many_layers_train_as_on_one_device(
    model: str, way: str, start: Callable[..., Any], make_job: Any
) -> None:
    """Attention with dropout; depthwise convolution, pooling and batch normalization; losses that layers add."""
    common = {"model": Named(f"sharded_models:{model}"), "steps_per_epoch": 4, "epochs": 2, "steps_per_call": 1}
    one, other = (
        start(make_job(optimizer=SGD, batch_size=96, **common, **where)).succeed().chief for where in ({}, WAYS[way])
    )
    assert other.losses() == pytest.approx(one.losses(), rel=1e-5)
    assert last_metrics(other, "validation") == pytest.approx(last_metrics(one, "validation"), rel=1e-4)


@pytest.mark.parametrize(
    "keys",
    [
        {"precision": "mixed_float16"},
        {"precision": "mixed_bfloat16"},
        {"class_weight": {"0": 3.0, "5": 0.2}},
        {"optimizer": Named("SGD", {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4})},
        {"dataset": DatasetSpec("user_code:streams", batch_size=48), "model": Named("mlp", {"classes": 2})},
        {"optimizer": Named("SGD", {"gradient_accumulation_steps": 3, "weight_decay": 0.01, "clipnorm": 0.1})},
    ],
    ids=["float16", "bfloat16", "class_weight", "ema", "stream", "keras_accumulation"],
)
def test_what_else_a_job_may_ask_for_is_as_on_one_device(
    keys: dict[str, Any], start: Callable[..., Any], make_job: Any
) -> None:
    common = {"optimizer": SGD, "epochs": 1, "steps_per_call": 1} | keys
    one, other = (start(make_job(**common, **where)).succeed().chief for where in ({}, WAYS["ModelParallel-2x1"]))
    assert len(one.losses()) > 5
    assert other.losses() == pytest.approx(one.losses(), rel=1e-5)
    assert last_metrics(other, "validation") == pytest.approx(last_metrics(one, "validation"), rel=1e-4)


def test_a_callback_may_validate_with_other_weights(start: Callable[..., Any], make_job: Any) -> None:
    callbacks = (Named("sharded_models:Halved"),)
    common = {"dataset": DatasetSpec("user_code:arrays", batch_size=48), "epochs": 2, "optimizer": SGD}
    plain, one, other = (
        last_metrics(start(make_job(model=Named("mlp"), **common, **keys)).succeed().chief, "validation")
        for keys in ({}, {"callbacks": callbacks}, {"callbacks": callbacks, **WAYS["ModelParallel-1x2"]})
    )
    assert other == pytest.approx(one, rel=1e-4)
    assert other != pytest.approx(plain, rel=1e-2)


@pytest.mark.parametrize("way", ["ModelParallel-2x1", "Hybrid-1x4"])
def test_a_killed_training_goes_on_exactly(way: str, start: Callable[..., Any], make_job: Any) -> None:
    spec = make_job(
        model=Named("mlp", {"dropout": 0.3}),
        dataset=DatasetSpec("user_code:arrays", batch_size=48),
        epochs=4,
        checkpoint=CheckpointSpec(every_steps=7),
        steps_per_call=3,
        callbacks=(Named("user_code:Slowly", {"step_s": 0.03}),),
        **WAYS[way],
    )
    assert_resumes_exactly(start, spec, [12])


def test_one_that_is_asked_to_leave_takes_the_other_along(start: Callable[..., Any], make_job: Any) -> None:
    checkpoint = CheckpointSpec(every_epochs=1)
    run = start(make_job(epochs=2000, validation=0, checkpoint=checkpoint, **WAYS["ModelParallel-2x1"]))
    wait_until(lambda: bool(run.chief.of("metrics")), 90, run)
    os.kill(run.tasks["worker:1"].pid, signal.SIGTERM)
    wait_until(lambda: all(task.poll() is not None for task in run.tasks.values()), 90, run)
    left = [task.of("preempted")[0] for task in run.tasks.values()]
    assert left[0]["step"] == left[1]["step"] > 0
    assert [event["asked"] for event in left] == [False, True]
    assert run.chief.of("checkpoint")


def test_the_end_of_one_ends_the_other(start: Callable[..., Any], make_job: Any) -> None:
    run = start(make_job(epochs=2000, validation=0, **WAYS["ModelParallel-2x1"]))
    wait_until(lambda: bool(run.chief.of("metrics")), 90, run)
    run.tasks["worker:1"].kill()
    wait_until(lambda: run.chief.poll() is not None, 90, run)
    (failure,) = run.chief.of("failure")
    assert run.chief.status not in (0, None)
    assert any(word in failure["message"] for word in CONSEQUENCES)
