"""The synchronous strategies are one computation: OneDevice's losses, step by step, however many replicas share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distrain.job.spec import DatasetSpec, JobSpec, Named

pytestmark = pytest.mark.tensorflow

STEPS = 30
DATA = DatasetSpec("user_code:arrays", batch_size=48)
OPTIMIZERS = {
    "sgd": (Named("SGD", {"learning_rate": 0.05, "momentum": 0.9, "global_clipnorm": 0.5}), 1e-5),
    "adam": (Named("adam", {"learning_rate": 0.001}), 1e-3),
}
SHARED = {
    "MultiWorkerMirrored-1": {"strategy": "MultiWorkerMirrored", "workers": 1},
    "MultiWorkerMirrored-2": {"strategy": "MultiWorkerMirrored", "workers": 2},
    "MultiWorkerMirrored-3": {"strategy": "MultiWorkerMirrored", "workers": 3},
    "Mirrored-2": {"strategy": "Mirrored", "devices": 2},
    "Mirrored-3": {"strategy": "Mirrored", "devices": 3},
}

WAYS = {
    "ring": {"strategy": "MultiWorkerMirrored", "workers": 2, "implementation": "ring"},
    "ring, in packs": {"strategy": "MultiWorkerMirrored", "workers": 2, "implementation": "ring", "pack_bytes": 1000},
    "devices, in packs": {"strategy": "Mirrored", "devices": 2, "implementation": "ring", "pack_bytes": 1000},
    "parts": {"accumulate": 4},
    "parts, compiled": {"accumulate": 2, "jit_compile": True},
    "parts that are not equal": {"accumulate": 7},
    "a part for each example": {"strategy": "MultiWorkerMirrored", "workers": 2, "accumulate": 48},
    "parts on devices": {"strategy": "Mirrored", "devices": 3, "accumulate": 5},
}
"""Other ways to the same sums."""


def losses(
    start: Callable[[JobSpec], Any], make_job: Callable[..., JobSpec], optimizer: Named, **where: Any
) -> list[float]:
    spec = make_job(
        model=Named("mlp"), optimizer=optimizer, batch_size=96, epochs=3, steps_per_call=1, validation=0, **where
    )
    found = start(spec).succeed().chief.losses()
    assert len(found) == 42
    return found[:STEPS]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_losses_are_those_of_one_device(optimizer: str, start: Callable[..., Any], make_job: Any) -> None:
    named, tolerance = OPTIMIZERS[optimizer]
    expected = losses(start, make_job, named)
    assert expected[-1] < 0.9 * expected[0], "nothing was learnt, so equal losses would show nothing"
    for name, where in SHARED.items():
        assert losses(start, make_job, named, **where) == pytest.approx(expected, rel=tolerance), name


def test_whichever_way_gradients_are_computed_and_summed(start: Callable[..., Any], make_job: Any) -> None:
    named, tolerance = OPTIMIZERS["sgd"]
    expected = losses(start, make_job, named)
    for name, where in WAYS.items():
        assert losses(start, make_job, named, **where) == pytest.approx(expected, rel=tolerance), name


def test_metrics_of_a_batch_in_parts_are_those_of_the_whole(start: Callable[..., Any], make_job: Any) -> None:
    common = {"epochs": 2, "validation": 0, "metrics": (Named("accuracy"), Named("sparse_top_k_categorical_accuracy"))}
    whole, parts = (start(make_job(**common, **keys)).succeed().chief for keys in ({}, {"accumulate": 7}))
    (one,), (other,) = whole.of("done"), parts.of("done")
    assert len(one["metrics"]["train"]) == 3
    assert other["metrics"]["train"] == pytest.approx(one["metrics"]["train"], rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"accumulate": 97}, "which strategy.accumulate cannot cut into 97 parts"),
        ({"accumulate": 2, "loss": Named("knobs:summed_loss")}, "needs a loss that is a mean over the examples"),
        ({"accumulate": 2, "model": Named("user_code:own_step"), "dataset": DATA}, "a train_step of its own"),
    ],
)
def test_what_cannot_be_cut_into_parts_is_refused(
    keys: Any, sentence: str, start: Callable[..., Any], make_job: Any
) -> None:
    run = start(make_job(**keys)).wait()
    (failure,) = run.chief.of("failure")
    assert failure["job_error"] is True, run.report()
    assert sentence in failure["message"]
    assert "Traceback" not in run.chief.text


def test_each_step_of_a_parameter_server_job_knows_its_number(start: Callable[..., Any], make_job: Any) -> None:
    """Both Adam and the schedule count steps. With one worker, nothing else sets its losses apart."""
    schedule = {"name": "ExponentialDecay", "initial_learning_rate": 0.02, "decay_steps": 2, "decay_rate": 0.7}
    common = {"optimizer": Named("adam", {"learning_rate": schedule}), "epochs": 1, "steps_per_call": 3}
    expected = start(make_job(**common)).succeed().chief.losses()
    found = start(make_job("ParameterServer", workers=1, ps=1, **common)).succeed().chief.losses()
    assert found == pytest.approx(expected, rel=1e-4)


def test_another_seed_gives_other_losses(start: Callable[..., Any], make_job: Any) -> None:
    one, other = (
        start(make_job(epochs=1, steps_per_call=1, validation=0, seed=seed)).succeed().chief.losses() for seed in (1, 2)
    )
    assert one != pytest.approx(other, rel=1e-3)


def test_each_epoch_takes_each_example_once_in_another_order(start: Callable[..., Any], make_job: Any) -> None:
    """With a learning rate of 0 the epoch's mean loss depends on which examples it took, and not on their order."""
    spec = make_job(
        optimizer=Named("SGD", {"learning_rate": 0.0}), batch_size=479, epochs=2, steps_per_call=1, validation=0
    )
    metrics = start(spec).succeed().chief.of("metrics")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    first, second = ([line["metrics"] for line in metrics[at : at + 3]] for at in (0, 3))
    assert first[-1]["loss"] == pytest.approx(second[-1]["loss"], rel=1e-6)
    assert [m["step_loss"] for m in first] != pytest.approx([m["step_loss"] for m in second], rel=1e-6)
