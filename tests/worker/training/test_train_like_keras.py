"""What Keras's own `fit` makes of a job on one device, with weights and moving averages, is what a run makes of it on
any number of replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.job.spec import DatasetSpec, Named

from .conftest import HERE
from .test_train_resume import weights

pytestmark = pytest.mark.tensorflow

FIT = """
import json, sys
import keras
import numpy as np

folder, case = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, case["here"])
import knobs
keras.utils.set_random_seed(1)
arrays = knobs.weighted(**case["data"])
model = knobs.network()
model.compile(keras.optimizers.SGD(**case["optimizer"]), case["loss"], metrics=["accuracy"])
x, y, *w = arrays if isinstance(arrays, tuple) else arrays["train"]
by_class = case["class_weight"]
if by_class:
    labels = y.argmax(axis=1) if y.ndim == 2 else y
    of_class = np.array([by_class.get(str(label), 1.0) for label in labels], "float32")
    w = [w[0] * of_class if w else of_class]
history = model.fit(x, y, 48, 3, 0, sample_weight=w[0] if w else None, shuffle=False)
model.save(folder + "/keras.keras")
print(json.dumps(history.history))
"""
STRATEGIES = {
    "OneDevice": {},
    "OneDevice, in parts": {"accumulate": 5},
    "Mirrored": {"strategy": "Mirrored", "devices": 2},
    "MultiWorkerMirrored": {"strategy": "MultiWorkerMirrored", "workers": 3},
    "ParameterServer": {"strategy": "ParameterServer", "workers": 1, "ps": 1},
}
SPARSE = "sparse_categorical_crossentropy"
CASES = {
    "class weights": {"data": {}, "class_weight": {"0": 0.25}},
    "sample weights": {"data": {"weights": True}, "class_weight": None},
    "both, and labels that are one-hot": {
        "data": {"weights": True, "one_hot": True},
        "class_weight": {"1": 3.0, "7": 2.0},
        "loss": "categorical_crossentropy",
    },
    "moving averages": {
        "data": {},
        "class_weight": None,
        "optimizer": {"use_ema": True, "ema_momentum": 0.9},
    },
    "moving averages that are put in the place of weights": {
        "data": {},
        "class_weight": None,
        "optimizer": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_like_fit(case: str, start: Any, make_job: Any, tmp_path: Path) -> None:
    asked = {"loss": SPARSE, **CASES[case], "here": HERE}
    asked["optimizer"] = {"learning_rate": 0.1, "momentum": 0.9, **CASES[case].get("optimizer", {})}
    history, expected = fit(asked, tmp_path)
    assert history["loss"][-1] < 0.95 * history["loss"][0]
    for name, where in STRATEGIES.items():
        spec = make_job(
            **where,
            model=Named("knobs:network"),
            dataset=DatasetSpec("knobs:weighted", batch_size=48, args=asked["data"]),
            optimizer=Named("SGD", asked["optimizer"]),
            loss=Named(asked["loss"]),
            class_weight=asked["class_weight"],
            shuffle=False,
            epochs=3,
            steps_per_call=10,
            validation=0,
        )
        run = start(spec).succeed()
        told = [event["metrics"] for event in run.chief.of("metrics") if event["split"] == "train"]
        for metric in ("loss", "accuracy"):
            assert [line[metric] for line in told] == pytest.approx(history[metric], rel=1e-5), (name, metric)
        found = weights(run.run_dir / "model.keras")
        assert found.keys() == expected.keys()
        for variable in found:
            np.testing.assert_allclose(
                found[variable], expected[variable], rtol=1e-4, atol=1e-6, err_msg=f"{name}: {variable}"
            )


def fit(case: dict[str, Any], folder: Path) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """The metrics by epoch, and weights and optimizer at the end."""
    done = subprocess.run(
        [sys.executable, "-c", FIT, str(folder), json.dumps(case)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), weights(folder / "keras.keras")


def test_class_weights_need_one_label_for_each_example(start: Any, make_job: Any) -> None:
    spec = make_job(
        model=Named("knobs:branches"),
        dataset=DatasetSpec("knobs:two_outputs", batch_size=48),
        loss=Named("knobs:both_losses"),
        metrics=(),
        class_weight={"0": 2.0},
    )
    run = start(spec).wait()
    (failure,) = run.chief.of("failure")
    assert failure["job_error"] is True, run.report()
    assert "training.class_weight needs one label" in failure["message"]
