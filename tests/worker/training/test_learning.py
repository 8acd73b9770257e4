"""What an optimizer does besides its formula: the same as in Keras's own `fit`; and how its rate begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.job.spec import DatasetSpec, Named

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # Keras's own, when it saves a model
]

BATCH = 48
STEPS = 20
COMMON = {
    "model": Named("user_code:network"),
    "dataset": DatasetSpec("user_code:arrays", batch_size=BATCH),
    "epochs": 2,
    "steps_per_epoch": STEPS // 2,
    "validation": 0,
    "shuffle": False,
}
DECAY = {"name": "ExponentialDecay", "initial_learning_rate": 0.2, "decay_steps": 5, "decay_rate": 0.5}
OPTIMIZERS = {
    "clipnorm": Named("SGD", {"learning_rate": 0.3, "momentum": 0.9, "clipnorm": 0.02}),
    "global_clipnorm": Named("SGD", {"learning_rate": 0.3, "nesterov": True, "momentum": 0.9, "global_clipnorm": 0.05}),
    "clipvalue": Named("adam", {"learning_rate": 0.02, "clipvalue": 0.003}),
    "weight_decay": Named("SGD", {"learning_rate": 0.3, "weight_decay": 0.05}),
    "adamw": Named("AdamW", {"learning_rate": 0.02, "weight_decay": 0.5}),
    "ema": Named("SGD", {"learning_rate": 0.3, "use_ema": True, "ema_momentum": 0.9}),
    "ema_adam": Named("adam", {"learning_rate": 0.02, "use_ema": True, "ema_momentum": 0.8, "clipnorm": 0.1}),
    "ema_overwriting": Named("SGD", {"learning_rate": 0.3, "use_ema": True, "ema_overwrite_frequency": 6}),
    "accumulation": Named("SGD", {"learning_rate": 0.3, "gradient_accumulation_steps": 2}),
    "schedule": Named("adam", {"learning_rate": {**DECAY, "initial_learning_rate": 0.02}, "weight_decay": 0.01}),
}


def saved(run: Any) -> list[np.ndarray]:
    """The weights of the trained model, and the variables of its optimizer."""
    import keras

    model = keras.saving.load_model(run.run_dir / "model.keras")
    return [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]


def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, optimizer: Named, **training: Any) -> list[np.ndarray]:
    """The same after Keras's own `fit`, on one device."""
    import keras

    from distrain.worker.model.recipe import make_optimizer

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import user_code

    keras.utils.set_random_seed(1)
    model = user_code.network()
    named = {"name": optimizer.name, "args": optimizer.args}
    made = make_optimizer({"optimizer": named, "scale_learning_rate": None, "warmup_steps": 0}, BATCH)
    model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = user_code.arrays()[0]
    model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, **training)
    model.save(tmp_path / "fitted.keras")
    model = keras.saving.load_model(tmp_path / "fitted.keras")
    return [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_saved_model_is_the_one_that_keras_leaves(
    name: str, start: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    optimizer = OPTIMIZERS[name]
    expected = fitted(monkeypatch, tmp_path, optimizer)
    assert_same(saved(start(make_job(optimizer=optimizer, **COMMON)).succeed()), expected, 1e-5)


@pytest.mark.parametrize(
    ("strategy", "where"),
    [
        ("Mirrored", {"devices": 2}),
        ("MultiWorkerMirrored", {"workers": 2}),
        ("ParameterServer", {"workers": 1, "ps": 2}),
    ],
)
def test_so_it_is_under_every_strategy(
    strategy: str, where: dict[str, int], start: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Moving averages, clipping, decay and a schedule at once."""
    args = {"learning_rate": DECAY, "use_ema": True, "ema_momentum": 0.9, "global_clipnorm": 0.1, "weight_decay": 0.05}
    optimizer = Named("SGD", args)
    expected = fitted(monkeypatch, tmp_path, optimizer)
    run = start(make_job(strategy, optimizer=optimizer, **where, **COMMON)).succeed()
    assert_same(saved(run), expected, 1e-5)


# ---- the rate


def rates(optimizer: dict[str, Any], steps: int, **training: Any) -> list[float]:
    from distrain.worker.model.recipe import make_optimizer

    training = {"scale_learning_rate": None, "warmup_steps": 0, **training}
    made = make_optimizer({"optimizer": optimizer, **training}, batch_size=256)
    found = []
    for _ in range(steps):
        found.append(float(made.learning_rate))
        made.iterations.assign_add(1)
    return found


def adam(**args: Any) -> dict[str, Any]:
    return {"name": "adam", "args": args}


SCHEDULES = [
    {"name": "ExponentialDecay", "initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.5},
    {"name": "InverseTimeDecay", "initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.5},
    {"name": "PolynomialDecay", "initial_learning_rate": 0.1, "decay_steps": 5, "end_learning_rate": 0.01},
    {"name": "PiecewiseConstantDecay", "boundaries": [2, 5], "values": [0.1, 0.05, 0.02]},
    {"name": "CosineDecay", "initial_learning_rate": 0.1, "decay_steps": 5, "alpha": 0.1},
    {
        "name": "CosineDecay",
        "initial_learning_rate": 0.1,
        "decay_steps": 5,
        "warmup_target": 0.3,
        "warmup_steps": 2,
    },
    {"name": "CosineDecayRestarts", "initial_learning_rate": 0.1, "first_decay_steps": 3},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["name"])
def test_the_scaling_rule_and_the_warm_up_of_every_schedule(schedule: dict[str, Any]) -> None:
    plain = np.array(rates(adam(learning_rate=schedule), 9))
    assert len(set(plain)) > 2
    scaled = rates(adam(learning_rate=schedule), 9, scale_learning_rate=64)
    np.testing.assert_allclose(scaled, 4 * plain, rtol=1e-6)
    both = rates(adam(learning_rate=schedule), 9, scale_learning_rate=64, warmup_steps=4)
    np.testing.assert_allclose(both, plain * [1, 1.75, 2.5, 3.25, 4, 4, 4, 4, 4], rtol=1e-6)
    warm = rates(adam(learning_rate=schedule), 9, warmup_steps=4)
    np.testing.assert_allclose(warm, plain * [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1], rtol=1e-6)


def test_the_scaling_rule_and_the_warm_up_of_a_number() -> None:
    assert rates(adam(), 1, scale_learning_rate=64) == pytest.approx([0.004]), "Keras's default, scaled"
    assert rates(adam(learning_rate=0.1), 3, scale_learning_rate=512) == pytest.approx([0.05] * 3)
    both = rates(adam(learning_rate=0.1), 6, scale_learning_rate=64, warmup_steps=4)
    assert both == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4, 0.4])
    assert rates(adam(learning_rate=0.1), 6, warmup_steps=4) == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])


def test_a_schedule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from distrain.worker.refusal import Refusal

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    own = {"name": "user_code:Halves", "start": 0.8}
    warm = rates(adam(learning_rate=own), 4, warmup_steps=2)
    assert warm == pytest.approx([0, 0.2, 0.2, 0.1])
    with pytest.raises(Refusal, match="cannot scale the schedule Halves, which is not one of Keras's own: leave it"):
        rates(adam(learning_rate=own), 1, scale_learning_rate=64)
    with pytest.raises(Refusal, match="user_code:Unsaved has no get_config, without which the trained model could not"):
        rates(adam(learning_rate={"name": "user_code:Unsaved"}), 1)
    by_function = {"name": "user_code:halving_sgd", "args": {}}
    with pytest.raises(Refusal, match="cannot tell what the learning rate of SGD is: give it a number or one of Keras"):
        rates(by_function, 1, warmup_steps=2)
    by_function = {"name": "user_code:decaying_sgd", "args": {}}
    assert rates(by_function, 3, scale_learning_rate=64, warmup_steps=2) == pytest.approx([0.8, 1.0, 0.8])


@pytest.mark.parametrize("rate", [0.05, DECAY], ids=["number", "schedule"])
def test_keras_alone_loads_what_was_warmed_up(rate: Any, start: Any, make_job: Any) -> None:
    """Also what a callback of Keras's saves, and also in the middle of the warm-up."""
    spec = make_job(
        **COMMON,
        optimizer=Named("adam", {"learning_rate": rate}),
        scale_learning_rate=12,
        warmup_steps=100,
        callbacks=(Named("ModelCheckpoint", {"filepath": "during.keras", "monitor": "loss"}),),
    )
    folder = start(spec).succeed().run_dir
    program = """
import sys, keras
for name in ("model.keras", "during.keras"):
    model = keras.saving.load_model(name)
    print(int(model.optimizer.iterations), float(model.optimizer.learning_rate))
assert not any(name.partition(".")[0] == "distrain" for name in sys.modules)
"""
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert loaded.returncode == 0, loaded.stderr
    end = 0.05 * (1 + 3 * STEPS / 100) if rate == 0.05 else 4 * 0.2 * 0.5 ** (STEPS / 5)
    assert [float(line.split()[1]) for line in loaded.stdout.splitlines()] == pytest.approx([end, end])


def test_a_run_that_goes_on_warms_up_where_it_was(start: Any, make_job: Any) -> None:
    from distrain.job.spec import CheckpointSpec

    spec = make_job(
        "MultiWorkerMirrored",
        workers=2,
        **COMMON,
        optimizer=Named("adam", {"learning_rate": DECAY}),
        scale_learning_rate=12,
        warmup_steps=15,
        steps_per_call=5,
        checkpoint=CheckpointSpec(every_steps=5, keep=10),
    )
    whole = start(spec).succeed()
    expected = saved(whole)
    (whole.run_dir / "model.keras").unlink()
    path = whole.run_dir / "checkpoints" / "step-00000005"
    again = start(spec, after=whole, resume={"path": str(path), "skip_to": None}).succeed()
    for one, other in zip(saved(again), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("setter", [Named("ReduceLROnPlateau"), Named("user_code:halving")])
@pytest.mark.parametrize("training", [{"warmup_steps": 5}, {"optimizer": Named("adam", {"learning_rate": DECAY})}])
def test_two_who_set_the_rate_are_refused(setter: Named, training: dict[str, Any], start: Any, make_job: Any) -> None:
    run = start(make_job(**COMMON, callbacks=(setter,), **training)).wait()
    assert run.chief.status == 2
    sentence = "sets the learning rate, but so does a schedule, be it optimizer.learning_rate or training.warmup_steps"
    assert sentence in run.chief.of("failure")[0]["message"]
