"""ParameterAveraging: workers that train alone, and meet every so many steps."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from distrain.job.spec import CheckpointSpec, DatasetSpec, Named

from .test_train_resume import assert_resumes_exactly

pytestmark = pytest.mark.tensorflow

DATA = DatasetSpec("user_code:arrays", batch_size=48)
TWO = {"strategy": "ParameterAveraging", "workers": 2}
SGD = Named("SGD", {"learning_rate": 0.05})


def losses(run: Any) -> list[float]:
    return run.succeed().chief.losses()


def test_one_worker_is_one_device(start: Any, make_job: Any) -> None:
    common = {"epochs": 2, "steps_per_call": 1, "optimizer": Named("adam"), "validation": 0}
    alone = losses(start(make_job("ParameterAveraging", workers=1, **common)))
    assert alone == losses(start(make_job(**common)))


@pytest.mark.parametrize("implementation", ["auto", "ring"])
def test_an_average_after_every_step_is_the_average_of_gradients(
    implementation: str, start: Any, make_job: Any
) -> None:
    """Of plain SGD, whose change of the weights is linear in the gradient. Statistics of batch normalization too."""
    common = {
        "model": Named("user_code:network"),
        "dataset": DATA,
        "optimizer": SGD,
        "epochs": 3,
        "steps_per_call": 1,
        "validation": 0,
    }
    expected = losses(start(make_job(**common)))
    assert expected[-1] < 0.95 * expected[0]
    for workers in (2, 3):
        where = {"workers": workers, "sync_every": 1, "implementation": implementation}
        found = losses(start(make_job("ParameterAveraging", **where, **common)))
        assert found == pytest.approx(expected, rel=1e-5), workers


def test_workers_agree_when_they_have_met_and_only_then(start: Any, make_job: Any) -> None:
    """Epochs of 10 steps and rounds of 4: an epoch's end is one of a round, too. The optimizer's slots stay apart."""
    spec = make_job(
        **TWO,
        sync_every=4,
        model=Named("user_code:network", {"normalize": True}),
        dataset=DATA,
        optimizer=Named("adam"),
        epochs=2,
        steps_per_call=1,
        callbacks=(Named("knobs:Weights"),),
    )
    run = start(spec).succeed()
    assert [event["step"] for event in run.chief.of("metrics") if event["split"] == "train"] == [4, 8, 10, 14, 18, 20]
    first, second = (json.loads((run.run_dir / f"weights-worker-{n}.json").read_text()) for n in (0, 1))
    for (model, optimizer), (other_model, other_optimizer) in zip(first, second, strict=True):
        assert model == other_model
        assert optimizer != other_optimizer


def test_outer_momentum_goes_on_with_the_last_change(start: Any, make_job: Any) -> None:
    """With one step a round and plain SGD it is SGD with momentum."""
    common = {"model": Named("user_code:network"), "dataset": DATA, "epochs": 3, "steps_per_call": 1, "validation": 0}
    momentum = Named("SGD", {"learning_rate": 0.05, "momentum": 0.8})
    expected = losses(start(make_job(optimizer=momentum, **common)))
    found = losses(start(make_job(**TWO, sync_every=1, outer_momentum=0.8, optimizer=SGD, **common)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_it_may_be_deterministic(start: Any, make_job: Any) -> None:
    keys = {**TWO, "sync_every": 4, "deterministic": True, "epochs": 1, "steps_per_call": 1}
    assert losses(start(make_job(**keys))) == losses(start(make_job(**keys)))


def test_one_worker_keeps_what_it_needs_to_meet_others_again(start: Any, make_job: Any) -> None:
    """An elastic job may go on alone, and later with others: the average's last change is there all the time."""
    common = {"model": Named("user_code:network"), "dataset": DATA, "validation": 0, "outer_momentum": 0.5}
    checkpoint = CheckpointSpec(every_epochs=1, keep=9)
    run = start(make_job(**TWO, epochs=1, checkpoint=checkpoint, **common)).succeed()
    for epochs, workers in ((2, 1), (3, 2)):
        where = {"strategy": "ParameterAveraging", "workers": workers}
        newest = max(path for path in (run.run_dir / "checkpoints").iterdir() if not path.name.startswith("."))
        spec = make_job(**where, epochs=epochs, checkpoint=checkpoint, **common)
        run = start(spec, after=run, resume={"path": str(newest), "skip_to": None}).succeed()
        assert run.chief.of("done")[0]["steps"] == 10 * epochs


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_run_that_was_killed_ends_like_one_that_was_not(momentum: float, start: Any, make_job: Any) -> None:
    """Checkpoints at every 7th step cut rounds short, in both runs alike."""
    spec = make_job(
        **TWO,
        sync_every=4,
        outer_momentum=momentum,
        model=Named("user_code:network", {"dropout": 0.3, "normalize": True}),
        dataset=DATA,
        epochs=6,
        optimizer=Named("adam", {"use_ema": True}),
        callbacks=(Named("user_code:Slowly", {"step_s": 0.05}),),
        checkpoint=CheckpointSpec(every_steps=7, every_epochs=1, keep=2),
        deterministic=True,
    )
    _, run = assert_resumes_exactly(start, spec, [random.randint(8, 40)])
    folder = max(path for path in (run.run_dir / "checkpoints").iterdir() if not path.name.startswith("."))
    with np.load(folder / "state.npz") as stored:
        own = stored["replicas"]
    assert own.shape[0] == 2
    assert not np.array_equal(own[0], own[1])


def test_a_train_step_of_its_own_is_honoured(start: Any, make_job: Any) -> None:
    """What a worker does alone is its own affair."""
    spec = make_job(
        **TWO, model=Named("user_code:own_step"), dataset=DATA, epochs=6, optimizer=Named("SGD", {"learning_rate": 0.3})
    )
    run = start(spec).succeed()
    (first, *_, last) = (e["metrics"]["accuracy"] for e in run.chief.of("metrics") if e["split"] == "validation")
    assert last > max(first, 0.8)
