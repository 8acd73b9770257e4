"""Models beyond a stack of layers train, and under every strategy that sums gradients as they do on one device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distrain.job.spec import DatasetSpec, MeshSpec, Named

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # Keras's own, when it saves a model
]

SGD = Named("SGD", {"learning_rate": 0.05, "momentum": 0.9})
MIRRORED = ("Mirrored", {"devices": 2})
WORKERS = ("MultiWorkerMirrored", {"workers": 2})
SERVER = ("ParameterServer", {"workers": 1, "ps": 2})
TOGETHER = [MIRRORED, WORKERS]
OTHERS = [*TOGETHER, SERVER]
EVERYWHERE = [
    ("OneDevice", {}),
    *OTHERS,
    ("ParameterAveraging", {"workers": 2, "sync_every": 1}),
    ("ModelParallel", {"devices": 2}),
    ("Hybrid", {"devices": 4, "mesh": MeshSpec(2, 2)}),
]
IMAGES = DatasetSpec("user_code:squares", batch_size=64)
NUMBERS = DatasetSpec("user_code:arrays", batch_size=48)
QUESTIONS = DatasetSpec("user_code:two_questions", batch_size=48)


def by_name(params: Any) -> str:
    return params if isinstance(params, str) else ""


@pytest.mark.parametrize(("strategy", "where"), EVERYWHERE, ids=by_name)
@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (
            Named("keras.applications.MobileNetV2", {"alpha": 0.35}),
            Named("SGD", {"learning_rate": 0.01, "momentum": 0.9}),
        ),
        (Named("transformer", {"layers": 1, "heads": 2, "width": 16, "dropout": 0.1}), Named("adam")),
    ],
    ids=["MobileNetV2", "transformer"],
)
def test_real_models_learn_everywhere(
    model: Named, optimizer: Named, strategy: str, where: dict[str, int], start: Any, make_job: Any, all_models: bool
) -> None:
    if model.name != "transformer" and strategy != "MultiWorkerMirrored" and not all_models:
        pytest.skip("takes most of a minute: --all-models")
    spec = make_job(strategy, model=model, dataset=IMAGES, epochs=4, optimizer=optimizer, steps_per_call=1, **where)
    run = start(spec).succeed()
    losses = run.chief.losses()
    assert len(losses) == 12
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]), losses
    (done,) = run.chief.of("done")
    assert np.isfinite(done["metrics"]["validation"]["loss"])


def losses_of(
    start: Any, make_job: Any, strategy: str, where: dict[str, int], **keys: Any
) -> tuple[list[float], float]:
    """The loss of each step, and that of the validation after the last."""
    common = {"epochs": 2, "optimizer": SGD, "steps_per_call": 1}
    chief = start(make_job(strategy, **{**common, **keys}, **where)).succeed().chief
    assert len(chief.losses()) >= 12
    return chief.losses(), chief.of("done")[0]["metrics"]["validation"]["loss"]


PER_OUTPUT = {
    "loss": {"sign": Named("sparse_categorical_crossentropy"), "total": Named("Huber", {"delta": 2.0})},
    "metrics": {"sign": (Named("accuracy"),), "total": (Named("mae"), Named("RootMeanSquaredError"))},
}


@pytest.mark.parametrize(
    "keys",
    [
        {"model": Named("transformer", {"layers": 2, "heads": 2, "width": 16}), "dataset": IMAGES, "epochs": 4},
        {"model": Named("user_code:two_answers"), "dataset": QUESTIONS, **PER_OUTPUT},
        {"model": Named("user_code:two_answers", {"named": False, "l2": 0.01}), "dataset": QUESTIONS, **PER_OUTPUT},
        {"model": Named("user_code:residual"), "dataset": NUMBERS},
    ],
    ids=["transformer", "dict of outputs", "list of outputs", "subclassed"],
)
def test_losses_are_those_of_one_device(keys: dict[str, Any], start: Any, make_job: Any) -> None:
    expected, validation = losses_of(start, make_job, "OneDevice", {}, **keys)
    assert expected[-1] < 0.95 * expected[0], "nothing was learnt, so equal losses would show nothing"
    for strategy, where in OTHERS:
        found, validated = losses_of(start, make_job, strategy, where, **keys)
        tolerance = 1e-5 if strategy != "ParameterServer" else 1e-4
        assert found == pytest.approx(expected, rel=tolerance), strategy
        assert validated == pytest.approx(validation, rel=tolerance), strategy


@pytest.mark.parametrize(("strategy", "where"), [("OneDevice", {}), *OTHERS], ids=by_name)
def test_each_output_has_its_own_metrics(strategy: str, where: dict[str, int], start: Any, make_job: Any) -> None:
    spec = make_job(
        strategy,
        model=Named("user_code:two_answers"),
        dataset=QUESTIONS,
        epochs=4,
        optimizer=SGD,
        **PER_OUTPUT,
        **where,
    )
    (done,) = start(spec).succeed().chief.of("done")
    names = {
        "loss",
        "sign_loss",
        "sign_accuracy",
        "total_loss",
        "total_mean_absolute_error",
        "total_root_mean_squared_error",
    }
    for split in ("train", "validation"):
        found = done["metrics"][split]
        assert found.keys() == names
        # Keras counts the last batch of a validation, which is smaller, as much as the others in the losses of outputs.
        assert found["loss"] == pytest.approx(found["sign_loss"] + found["total_loss"], rel=1e-2)
    assert done["metrics"]["validation"]["sign_accuracy"] > 0.6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss": {"sing": Named("mse"), "total": Named("mse")}}, "'sing'"),
        ({"metrics": {"sing": (Named("mae"),)}}, "'sing'"),
    ],
)
def test_losses_and_metrics_that_do_not_fit_the_outputs(
    wrong: dict[str, Any], said: str, start: Any, make_job: Any
) -> None:
    run = start(make_job(model=Named("user_code:two_answers"), dataset=QUESTIONS, **{**PER_OUTPUT, **wrong})).wait()
    assert run.chief.status == 2, run.report()
    message = run.chief.of("failure")[0]["message"]
    assert message.startswith("training.loss or training.metrics does not fit the outputs of the model or the labels: ")
    assert said in message


# ---- losses over what a mask leaves

SENTENCES = {"model": Named("user_code:tagger"), "dataset": DatasetSpec("user_code:sentences", batch_size=48)}


def test_masked_losses_count_what_is_left_on_all_replicas(start: Any, make_job: Any) -> None:
    keys = {**SENTENCES, "shuffle": False, "epochs": 4, "validation": 0, "optimizer": SGD, "steps_per_call": 1}
    expected = start(make_job(**keys)).succeed().chief.losses()
    assert expected[-1] < 0.9 * expected[0], "nothing was learnt, so equal losses would show nothing"
    for strategy, where in [("Mirrored", {"devices": 3}), WORKERS, ("ModelParallel", {"devices": 2})]:
        found = start(make_job(strategy, **keys, **where)).succeed().chief.losses()
        assert found == pytest.approx(expected, rel=1e-5), strategy


@pytest.mark.parametrize(
    ("named", "keys"),
    [
        ("strategy.accumulate", {"accumulate": 2}),
        ("training.jit_compile", {"jit_compile": True, "strategy": "Mirrored", "devices": 2}),
    ],
)
def test_masked_losses_are_refused_where_they_could_not_be_right(
    named: str, keys: dict[str, Any], start: Any, make_job: Any
) -> None:
    run = start(make_job(**SENTENCES, **keys)).wait()
    assert run.chief.status == 2, run.report()
    assert f"with {named} the loss" in run.chief.of("failure")[0]["message"]


@pytest.mark.parametrize(
    ("keys", "together"),
    [
        ({"model": Named("mlp", {"classes": 2}), "loss": Named("user_code:mean_loss")}, TOGETHER),
        ({"model": Named("user_code:own_loss")}, [MIRRORED]),
    ],
    ids=["a function", "compute_loss"],
)
def test_a_loss_that_is_one_number_for_all_examples_is_that_of_one_device(
    keys: dict[str, Any], together: list[Any], start: Any, make_job: Any
) -> None:
    keys = {**keys, "dataset": NUMBERS}
    expected, validation = losses_of(start, make_job, "OneDevice", {}, **keys)
    assert expected[-1] < 0.9 * expected[0], "nothing was learnt, so equal losses would show nothing"
    for strategy, where in together:
        found, found_validation = losses_of(start, make_job, strategy, where, **keys)
        assert found == pytest.approx(expected, rel=1e-5), strategy
        assert found_validation == pytest.approx(validation, rel=1e-5), strategy


# ---- a train_step of the user's


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loss": Named("user_code:mean_loss"), "class_weight": {"0": 3.0}}, "the loss is one number for all examples"),
        (
            {"loss": Named("user_code:weighted_mean"), "class_weight": {"0": 3.0}},
            "mean_with_sample_weight",
        ),
    ],
)
def test_a_weighted_loss_that_parts_cannot_give_is_refused(
    keys: dict[str, Any], said: str, start: Any, make_job: Any
) -> None:
    keys = {**keys, "model": Named("mlp", {"classes": 2}), "dataset": NUMBERS}
    start(make_job(**keys)).succeed()
    for where in ({"accumulate": 2}, {"strategy": "Mirrored", "devices": 2}):
        run = start(make_job(**keys, **where)).wait()
        assert run.chief.status == 2, run.report()
        assert said in run.chief.of("failure")[0]["message"]


def test_compute_loss_of_ones_own_may_be_cut_into_parts(start: Any, make_job: Any) -> None:
    keys = {"model": Named("user_code:own_loss"), "dataset": NUMBERS}
    expected, validation = losses_of(start, make_job, "OneDevice", {}, **keys)
    found, found_validation = losses_of(start, make_job, "OneDevice", {"accumulate": 3}, **keys)
    assert [*found, found_validation] == pytest.approx([*expected, validation], rel=1e-5)


@pytest.mark.parametrize(("strategy", "where"), EVERYWHERE, ids=by_name)
def test_a_metric_may_give_its_own_variable(strategy: str, where: dict[str, int], start: Any, make_job: Any) -> None:
    keys = {"model": Named("mlp", {"classes": 2}), "dataset": NUMBERS, "metrics": (Named("user_code:Seen"),)}
    (done,) = start(make_job(strategy, **keys, **where)).succeed().chief.of("done")
    assert (done["metrics"]["train"]["seen"], done["metrics"]["validation"]["seen"]) == (480, 103)


@pytest.mark.parametrize(
    ("named", "keys"),
    [("jit_compile", {"jit_compile": True}), ("accumulate", {"accumulate": 2})],
)
def test_a_train_step_of_ones_own_is_refused_what_does_not_reach_it(
    named: str, keys: dict[str, Any], start: Any, make_job: Any
) -> None:
    run = start(make_job(model=Named("user_code:by_hand"), dataset=NUMBERS, **keys)).wait()
    assert run.chief.status == 2, run.report()
    message = run.chief.of("failure")[0]["message"]
    assert message.startswith("the model has a train_step of its own")
    assert named in message


@pytest.mark.parametrize("model", ["by_hand", "own_step"])
def test_a_train_step_of_ones_own_is_honoured(model: str, start: Any, make_job: Any) -> None:
    keys = {"model": Named(f"user_code:{model}"), "dataset": NUMBERS}
    expected = [e["metrics"]["loss"] for e in _train_metrics(start, make_job, "OneDevice", {}, keys)]
    assert expected[-1] < 0.9 * expected[0]
    for strategy, where in TOGETHER:
        found = [e["metrics"]["loss"] for e in _train_metrics(start, make_job, strategy, where, keys)]
        assert found == pytest.approx(expected, rel=1e-5), strategy


def _train_metrics(start: Any, make_job: Any, strategy: str, where: dict[str, int], keys: Any) -> list[Any]:
    spec = make_job(strategy, **keys, epochs=2, optimizer=SGD, steps_per_call=1, validation=0, **where)
    return start(spec).succeed().chief.of("metrics")


def test_where_it_cannot_be_it_is_refused(start: Any, make_job: Any) -> None:
    strategy, where = SERVER
    run = start(make_job(strategy, model=Named("user_code:by_hand"), dataset=NUMBERS, **where)).wait()
    assert run.chief.status == 2
    assert "the model has a train_step of its own" in run.chief.of("failure")[0]["message"]


# ---- batch normalization


@pytest.mark.parametrize(("strategy", "where"), TOGETHER, ids=by_name)
def test_moving_averages_are_the_mean_over_the_replicas(
    strategy: str, where: dict[str, int], start: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a learning rate of 0 they can be told from the data: each replica normalizes by its own part of the batch."""
    import keras

    spec = make_job(
        strategy,
        model=Named("user_code:normalized"),
        dataset=NUMBERS,
        epochs=2,
        shuffle=False,
        optimizer=Named("SGD", {"learning_rate": 0.0}),
        **where,
    )
    run = start(spec).succeed()
    model = keras.saving.load_model(run.run_dir / "model.keras")
    x, _ = _numbers(480, 1)
    kernel, bias = model.layers[0].get_weights()
    hidden = np.maximum(x @ kernel + bias, 0)
    mean, variance = np.zeros(6), np.ones(6)
    for step in range(20):
        parts = np.split(hidden[48 * (step % 10) : 48 * (step % 10) + 48], 2)
        mean = 0.8 * mean + 0.2 * np.mean([part.mean(axis=0) for part in parts], axis=0)
        variance = 0.8 * variance + 0.2 * np.mean([part.var(axis=0) for part in parts], axis=0)
    *_, found_mean, found_variance = model.layers[1].get_weights()
    np.testing.assert_allclose(found_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found_variance, variance, rtol=1e-5)
    # The validation of the last epoch is by the very same.
    loss, accuracy = model.evaluate(*_numbers(103, 2), verbose=0)
    assert run.chief.of("done")[0]["metrics"]["validation"] == pytest.approx(
        {"loss": loss, "accuracy": accuracy}, rel=1e-5
    )


def _numbers(size: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 8)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int32)


@pytest.mark.parametrize(("strategy", "where"), TOGETHER, ids=by_name)
def test_synchronized_it_is_one_device_again(strategy: str, where: dict[str, int], start: Any, make_job: Any) -> None:
    keys = {"model": Named("user_code:normalized", {"synchronized": True}), "dataset": NUMBERS}
    expected, validation = losses_of(start, make_job, "OneDevice", {}, **keys)
    found, validated = losses_of(start, make_job, strategy, where, **keys)
    assert [*found, validated] == pytest.approx([*expected, validation], rel=1e-4)
    apart, _ = losses_of(start, make_job, strategy, where, model=Named("user_code:normalized"), dataset=NUMBERS)
    assert apart != pytest.approx(expected, rel=1e-3), "both ways are the same here, so this shows nothing"
