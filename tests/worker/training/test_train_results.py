"""What a run leaves and says: a model that is any good and that Keras loads, exact validation, the events of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from distrain.job.spec import DatasetSpec, Named

pytestmark = pytest.mark.tensorflow

STRATEGIES = {
    "OneDevice": {},
    "Mirrored": {"devices": 2},
    "MultiWorkerMirrored": {"workers": 2},
    "ParameterServer": {"workers": 2, "ps": 2},
}
EVALUATE = """
import json, sys
import keras, numpy as np
from distrain.worker.datasets import load_dataset
from distrain.worker.telemetry import Events
found = load_dataset({"name": "digits", "path": None, "args": {}}, Events(None)).validation
model_files = sys.argv[1:]
x, y = found.prepare(found.x, found.y)
print(json.dumps([keras.saving.load_model(file).evaluate(x, y, verbose=0, return_dict=True) for file in model_files]))
"""


def test_each_strategy_learns_and_keras_loads_its_model(start: Any, make_job: Any) -> None:
    told, files = [], []
    for name, where in STRATEGIES.items():
        spec = make_job(name, epochs=12, batch_size=96, optimizer=Named("adam", {"learning_rate": 0.005}), **where)
        run = start(spec).succeed()
        (done,) = run.chief.of("done")
        assert (done["epochs"], done["steps"]) == (12, 12 * 14), name
        assert done["metrics"]["validation"]["accuracy"] >= 0.93, (name, done)
        told.append(done["metrics"]["validation"])
        files.append(str(run.run_dir / run.chief.of("model")[0]["path"]))
        assert [path.name for path in run.run_dir.iterdir() if path.name.startswith(".")] == []
    output = subprocess.run(
        [sys.executable, "-c", EVALUATE, *files], check=True, capture_output=True, timeout=90
    ).stdout
    for name, ours, keras_says in zip(STRATEGIES, told, json.loads(output.splitlines()[-1]), strict=True):
        assert ours["accuracy"] == pytest.approx(keras_says["accuracy"], abs=1e-6), name
        assert ours["loss"] == pytest.approx(keras_says["loss"], rel=1e-4), name


@pytest.mark.parametrize("data", ["arrays", "streams"])
def test_validation_sees_each_example_once_however_many_share_it(data: str, start: Any, make_job: Any) -> None:
    """103 examples, a prime, divide among nothing. With a learning rate of 0 all have the same weights."""
    shapes = {
        "one": ("OneDevice", {}),
        "two devices": ("Mirrored", {"devices": 2}),
        "three workers": ("MultiWorkerMirrored", {"workers": 3}),
        "parameter server": ("ParameterServer", {"workers": 2, "ps": 1}),
    }
    found = {}
    for label, (name, where) in shapes.items():
        spec = make_job(
            name,
            model=Named("user_code:network", {"l2": 0.01}),
            dataset=DatasetSpec(f"user_code:{data}", batch_size=48),
            optimizer=Named("SGD", {"learning_rate": 0.0}),
            metrics=(Named("accuracy"), Named("sparse_categorical_crossentropy")),
            **where,
        )
        found[label] = start(spec).succeed().chief.of("done")[0]["metrics"]["validation"]
    one = found["one"]
    assert one["accuracy"] * 103 == pytest.approx(round(one["accuracy"] * 103), abs=1e-4)
    assert one["loss"] > one["sparse_categorical_crossentropy"] + 1e-3, "the loss lacks the regularizer's part"
    for label, metrics in found.items():
        assert metrics == pytest.approx(one, rel=1e-5), label


def test_the_chief_tells_of_the_run(start: Any, make_job: Any) -> None:
    run = start(make_job("MultiWorkerMirrored", workers=2, epochs=2, steps_per_call=4)).succeed()
    chief, other = run.tasks["worker:0"], run.tasks["worker:1"]
    for task in (chief, other):
        assert [event["phase"] for event in task.of("phase")][:5] == [
            "importing TensorFlow",
            "connecting",
            "loading data",
            "building the model",
            "training",
        ]
        (ready,) = task.of("ready")
        assert ready["replicas"] == 2
        assert ready["parameters"] > 1000
        assert set(ready["versions"]) == {"python", "tensorflow", "keras"}
        assert {event["step"] for event in task.of("progress")} >= {14, 28}, "an epoch's end is always told"
    assert chief.of("started") == [
        {
            "kind": "started",
            "epochs": 2,
            "steps_per_epoch": 14,
            "first_step": 0,
            "batch_size": 96,
            "train_examples": 1437,
            "validation_examples": 360,
        }
    ]
    steps = [(line["split"], line["epoch"], line["step"]) for line in chief.of("metrics")]
    train = [("train", 1 + (step > 14), step) for step in (4, 8, 12, 14, 18, 22, 26, 28)]
    assert steps == [*train[:4], ("validation", 1, 14), *train[4:], ("validation", 2, 28)]
    (done,) = chief.of("done")
    assert done["examples_per_s"] > 0
    assert done["metrics"]["train"].keys() == {"loss", "accuracy"}
    assert "each epoch leaves out 93 of 1437 training examples" in chief.of("note")[0]["message"]
    assert other.of("done") == [{"kind": "done"}]
    for kind in ("started", "metrics", "model", "note"):
        assert other.of(kind) == []


def test_more_steps_than_an_epoch_holds_go_on_with_the_next_pass(start: Any, make_job: Any) -> None:
    spec = make_job(steps_per_epoch=40, batch_size=96, epochs=1, dataset=DatasetSpec("digits", batch_size=96))
    assert start(spec).succeed().chief.of("done")[0]["steps"] == 40


def test_a_generator_may_feed_the_workers_of_a_parameter_server_job(start: Any, make_job: Any) -> None:
    """Other processes cannot run it: TensorFlow has the chief do so for them."""
    spec = make_job(
        "ParameterServer",
        workers=2,
        ps=1,
        model=Named("user_code:network"),
        dataset=DatasetSpec("user_code:generated", batch_size=48),
        optimizer=Named("adam", {"learning_rate": 0.02}),
        epochs=4,
    )
    (done,) = start(spec).succeed().chief.of("done")
    assert (done["epochs"], done["steps"]) == (4, 40)
    assert done["metrics"]["validation"]["accuracy"] >= 0.85


def test_dropout_draws_something_else_on_each_replica(start: Any, make_job: Any) -> None:
    """With the same mask on both, two replicas of one half each would still differ from one of all; so look at the
    seeds themselves, which the callback writes down."""
    spec = make_job(
        "MultiWorkerMirrored",
        workers=2,
        model=Named("user_code:network", {"dropout": 0.5}),
        dataset=DatasetSpec("user_code:arrays", batch_size=48),
        callbacks=(Named("user_code:Seeds"),),
        validation=0,
    )
    run = start(spec).succeed()
    seeds = [(run.run_dir / f"seeds-worker-{index}").read_text() for index in (0, 1)]
    assert seeds[0] != seeds[1]
    assert run.chief.of("done")[0]["metrics"]["train"]["loss"] > 0
