"""A training that was killed, at any moment, and goes on ends with the very weights of one that was not."""

from __future__ import annotations

import json
import random
import signal
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distrain.job.spec import CheckpointSpec, DatasetSpec, Named

from .conftest import wait_until

pytestmark = pytest.mark.tensorflow

DATA = DatasetSpec("user_code:arrays", batch_size=48)
SCHEDULE = {"name": "ExponentialDecay", "initial_learning_rate": 0.01, "decay_steps": 7, "decay_rate": 0.8}
EARLY_STOPPING = Named("EarlyStopping", {"patience": 3, "restore_best_weights": True})
BEST = Named("ModelCheckpoint", {"filepath": "best.keras", "save_best_only": True})
SLOWLY = Named("user_code:Slowly", {"step_s": 0.03})
STRATEGIES = {
    "OneDevice": {},
    "Mirrored": {"strategy": "Mirrored", "devices": 2},
    "MultiWorkerMirrored": {"strategy": "MultiWorkerMirrored", "workers": 2},
}


def weights(path: Path) -> dict[str, np.ndarray]:
    """All that a `.keras` file holds of the model and its optimizer."""
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as stored:
        stored.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    assert len(found) > 3
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert not different, f"{one} and {other} differ in {different}"


def newest(run: Any) -> dict[str, Any]:
    folders = [path for path in (run.run_dir / "checkpoints").iterdir() if not path.name.startswith(".")]
    return {"path": str(max(folders)), "skip_to": None}


def read(resume: dict[str, Any]) -> dict[str, Any]:
    return json.loads(Path(resume["path"], "checkpoint.json").read_text())


def killed(run: Any, step: int) -> Any:
    """`run`, whose chief was killed when `step` steps were done and a checkpoint of its own was there."""

    def is_time() -> bool:
        assert run.chief.poll() is None, run.report()
        done = max((event["step"] for event in run.chief.of("metrics")), default=0)
        return done >= step and bool(run.chief.of("checkpoint"))

    wait_until(is_time, 60, run)
    run.chief.kill()
    wait_until(lambda: run.chief.poll() is not None, 30, run)
    run.end()
    assert run.chief.status == -signal.SIGKILL
    return run


def assert_resumes_exactly(start: Any, spec: Any, moments: list[int]) -> tuple[Any, Any]:
    print(f"killed after steps {moments}")
    undisturbed = start(spec)
    run = killed(start(spec), moments[0])
    for step in moments[1:]:
        run = killed(start(spec, after=run, resume=newest(run)), step)
    last = newest(run)
    run = start(spec, after=run, resume=last).succeed()
    undisturbed.succeed()
    (resumed,) = run.chief.of("resumed")
    assert resumed["path"] == last["path"]
    assert run.chief.of("started")[0]["first_step"] == resumed["step"] > 0
    assert_same_end(undisturbed, run)
    return undisturbed, run


def assert_same_end(undisturbed: Any, run: Any) -> None:
    assert_same(undisturbed.run_dir / "model.keras", run.run_dir / "model.keras")
    (one,), (other,) = undisturbed.chief.of("done"), run.chief.of("done")
    assert one["epochs"] == other["epochs"]
    assert one["steps"] == other["steps"]
    assert one["metrics"] == other["metrics"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weights_are_those_of_an_undisturbed_run(strategy: str, start: Any, make_job: Any) -> None:
    """Killed somewhere, and where that is quick again somewhere after it."""
    spec = make_job(
        **STRATEGIES[strategy],
        model=Named("user_code:network", {"dropout": 0.3, "normalize": True}),
        dataset=DATA,
        epochs=8,
        optimizer=Named("adam", {"learning_rate": SCHEDULE}),
        callbacks=(EARLY_STOPPING, BEST, SLOWLY, Named("user_code:Memory")),
        checkpoint=CheckpointSpec(every_steps=7, every_epochs=1, keep=2),
        deterministic=True,
    )
    first, second = random.randint(8, 25), random.randint(30, 40)
    moments = [first, second] if strategy == "OneDevice" else [random.choice((first, second))]
    undisturbed, run = assert_resumes_exactly(start, spec, moments)
    assert_same(undisturbed.run_dir / "best.keras", run.run_dir / "best.keras")
    for task in run.tasks:
        name = f"memory-{task.replace(':', '-')}"
        assert (run.run_dir / name).read_text() == (undisturbed.run_dir / name).read_text()


OTHERS = {
    "callbacks that set the rate, and a stream": {
        "dataset": DatasetSpec("user_code:streams", batch_size=48),
        "callbacks": (
            Named("user_code:halving"),
            Named("ReduceLROnPlateau", {"monitor": "loss", "patience": 1, "min_delta": 0.01}),
            Named("CSVLogger", {"filename": "log.csv"}),
            SLOWLY,
        ),
    },
    "moving averages, and a loss that is scaled": {
        "dataset": DATA,
        "precision": "mixed_float16",
        "optimizer": Named("adam", {"use_ema": True, "ema_overwrite_frequency": 6}),
        "callbacks": (SLOWLY,),
    },
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_things_that_must_come_back(case: str, start: Any, make_job: Any) -> None:
    spec = make_job(
        **OTHERS[case],
        model=Named("user_code:network"),
        epochs=5,
        checkpoint=CheckpointSpec(every_steps=3, keep=2),
        deterministic=True,
    )
    undisturbed, run = assert_resumes_exactly(start, spec, [random.randint(4, 20)])
    if (undisturbed.run_dir / "log.csv").exists():
        rows = (run.run_dir / "log.csv").read_text().splitlines()
        assert set(rows) == set((undisturbed.run_dir / "log.csv").read_text().splitlines())


PARAMETER_SERVER = {"strategy": "ParameterServer", "workers": 2, "ps": 1}


@pytest.mark.parametrize(
    ("where", "asked"),
    [({}, "worker:0"), (STRATEGIES["MultiWorkerMirrored"], "worker:1"), (PARAMETER_SERVER, "chief:0")],
)
def test_who_is_asked_to_leave_has_all_leave_with_a_checkpoint(
    where: dict[str, Any], asked: str, start: Any, make_job: Any
) -> None:
    spec = make_job(
        **where,
        model=Named("user_code:network", {"dropout": 0.3}),
        dataset=DATA,
        epochs=4,
        steps_per_call=1,  # and so every step is told
        callbacks=(SLOWLY, Named("user_code:Memory")),
        checkpoint=CheckpointSpec(every_epochs=100),
        deterministic=True,
    )
    run = start(spec)
    wait_until(lambda: any(event["step"] > 12 for event in run.chief.of("metrics")), 60, run)
    run.tasks[asked].kill(signal.SIGTERM)
    training = [run.chief] if where is PARAMETER_SERVER else list(run.tasks.values())
    wait_until(lambda: all(task.poll() is not None for task in training), 30, run)
    run.end()
    assert [task.status for task in training] == [42] * len(training), run.report()
    (step,) = {event["step"] for task in training for event in task.of("preempted")}
    assert [event["step"] for event in run.chief.of("checkpoint")] == [step]
    assert not run.chief.of("done")
    assert not list(run.run_dir.glob("memory-*")), "on_train_end was called, but training has not ended"
    undisturbed = None if where is PARAMETER_SERVER else start(spec)
    run = start(spec, after=run, resume=newest(run)).succeed()
    assert run.chief.of("started")[0]["first_step"] == step
    if undisturbed is not None:
        assert_same_end(undisturbed.succeed(), run)
        return
    # Which worker takes which step is nobody's choice, but each is done, and counted, once.
    told = [event["step"] for event in run.chief.of("metrics") if event["split"] == "train"]
    assert told == [*range(step + 1, 41)]
    assert 40 in [int(array) for array in weights(run.run_dir / "model.keras").values() if array.shape == ()]


def test_a_training_that_was_over_ends_at_once(start: Any, make_job: Any) -> None:
    """Killed after its last checkpoint, before or after the model was saved: the best weights are still the ones."""
    spec = make_job(
        model=Named("user_code:network"),
        dataset=DATA,
        epochs=20,
        optimizer=Named("SGD", {"learning_rate": 0.0}),
        callbacks=(EARLY_STOPPING, Named("user_code:Recorder")),
        checkpoint=CheckpointSpec(every_epochs=1),
    )
    run = start(spec).succeed()
    assert (run.chief.of("done")[0]["epochs"], read(newest(run))["finished"]) == (4, True)
    before = weights(run.run_dir / "model.keras")
    (run.run_dir / "model.keras").unlink()
    ended = start(spec, after=run, resume=newest(run)).succeed()
    assert not ended.chief.of("progress")
    assert (ended.chief.of("done")[0]["epochs"], ended.chief.of("done")[0]["steps"]) == (4, 40)
    assert ended.chief.of("done")[0]["metrics"] == run.chief.of("done")[0]["metrics"]
    after = weights(run.run_dir / "model.keras")
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_with_fewer_workers_no_example_is_counted_twice_or_lost(start: Any, make_job: Any) -> None:
    common = {
        "model": Named("user_code:network"),
        "dataset": DATA,
        "epochs": 4,
        "validation": 0,
        "optimizer": Named("SGD", {"learning_rate": 0.0}),
        "callbacks": (SLOWLY,),
        "checkpoint": CheckpointSpec(every_steps=7),
    }
    whole = start(make_job(**common))
    run = killed(start(make_job("MultiWorkerMirrored", workers=2, **common)), 8)
    step = read(newest(run))["step"]
    one = start(make_job("MultiWorkerMirrored", workers=1, **common), after=run, resume=newest(run)).succeed()

    def at_the_epochs_end(run: Any) -> list[dict[str, float]]:
        return [event["metrics"] for event in run.chief.of("metrics") if event["step"] == (step // 10 + 1) * 10]

    (found,), (expected,) = at_the_epochs_end(one), at_the_epochs_end(whole.succeed())
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-6)


def refused(start: Any, spec: Any, run: Any, resume: dict[str, Any], status: int) -> dict[str, Any]:
    again = start(spec, after=run, resume=resume).wait()
    assert again.chief.status == status, again.report()
    (failure,) = again.chief.of("failure")
    assert "Traceback" not in again.chief.text
    assert f"error: {failure['message']}" in again.chief.text
    return failure


def test_a_checkpoint_that_cannot_be_gone_on_from(start: Any, make_job: Any) -> None:
    common = {"dataset": DATA, "epochs": 1, "checkpoint": CheckpointSpec(every_epochs=1)}
    spec = make_job(model=Named("user_code:network"), **common)
    run = start(spec).succeed()
    resume = newest(run)
    # Another job.
    other = make_job(model=Named("user_code:network", {"normalize": True}), **common)
    failure = refused(start, other, run, resume, 2)
    assert "of another model or optimizer" in failure["message"]
    other = make_job(
        model=Named("user_code:network"), **{**common, "dataset": DatasetSpec("user_code:arrays", batch_size=24)}
    )
    failure = refused(start, other, run, resume, 2)
    assert "of epochs of 10 steps, but here they have 20" in failure["message"]
    # Damage.
    state = Path(resume["path"], "state.npz")
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    failure = refused(start, spec, run, resume, 1)
    assert (failure["why"], failure["path"], failure["job_error"]) == ("checkpoint", resume["path"], False)
    assert "its SHA-256 differs" in failure["message"]
    Path(resume["path"], "checkpoint.json").write_text("{")
    assert refused(start, spec, run, resume, 1)["why"] == "checkpoint"


def test_a_loss_that_is_not_finite_ends_training_and_can_be_left_out(start: Any, make_job: Any) -> None:
    """One label, in the data of the seventh step of each epoch, is infinite."""
    common = {
        "model": Named("user_code:line"),
        "loss": Named("mse"),
        "metrics": (),
        "dataset": DatasetSpec("user_code:diverging", batch_size=48),
        "epochs": 3,
        "shuffle": False,
        "steps_per_call": 4,
        "validation": 0,
        "callbacks": (SLOWLY,),
        "checkpoint": CheckpointSpec(every_steps=4, keep=9),
    }
    spec = make_job("MultiWorkerMirrored", workers=2, **common)
    run = start(spec)
    wait_until(lambda: all(task.poll() is not None for task in run.tasks.values()), 60, run)
    for task in run.tasks.values():
        assert task.status == 1, run.report()
        (failure,) = task.of("failure")
        assert (failure["why"], failure["step"], failure["job_error"]) == ("nan", 7, False)
        assert failure["message"].startswith("the loss of step 7 is inf: ")
        assert "Traceback" not in task.text
    assert read(newest(run))["step"] == 4
    resume = {**newest(run), "skip_to": 7}
    again = start(spec, after=run, resume=resume).wait()
    (started,) = again.chief.of("started")
    assert started["first_step"] == 7
    assert again.chief.of("failure")[0]["step"] == 17, "the same example, an epoch later"
    ignored = start(make_job(**common, nan="ignore")).succeed()
    assert ignored.chief.of("done")[0]["steps"] == 30


@pytest.mark.parametrize(
    ("strategy", "where"),
    [
        ("OneDevice", {}),
        ("MultiWorkerMirrored", {"workers": 2, "steps_per_call": 2}),
        ("ParameterServer", {"workers": 2, "ps": 1, "steps_per_call": 2}),
    ],
)
@pytest.mark.parametrize("epochs", [2, 100], ids=["at the end", "in the middle"])
def test_weights_that_are_not_finite_end_training_though_the_loss_is(
    strategy: str, where: dict[str, int], epochs: int, start: Any, make_job: Any
) -> None:
    """ReLU makes a number of a NaN that comes out of the first layer. All tasks that train say the same."""
    poisons = (Named("user_code:Poisons"),)
    checkpoint = CheckpointSpec(every_epochs=1)
    run = start(make_job(strategy, epochs=epochs, callbacks=poisons, checkpoint=checkpoint, validation=0, **where))
    train = [task for name, task in run.tasks.items() if task is run.chief or strategy != "ParameterServer"]
    wait_until(lambda: all(task.poll() is not None for task in train), 60, run)
    steps_per_epoch = run.chief.of("started")[0]["steps_per_epoch"]
    # A checkpoint that is due while another is written is not written: then the next one tells.
    tells = range(2 * steps_per_epoch, (epochs + 1) * steps_per_epoch, steps_per_epoch)
    (step,) = {failure["step"] for task in train for failure in task.of("failure")}
    assert step in tells, run.report()
    for task in train:
        (failure,) = task.of("failure")
        assert (task.status, failure["why"]) == (1, "nan"), run.report()
        assert failure["message"].startswith(f"a weight is not finite after step {step}: ")
        assert not task.of("done")
    assert read(newest(run))["step"] == steps_per_epoch
