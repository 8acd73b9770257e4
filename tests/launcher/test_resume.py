"""What a run may go on with, and what would silently train wrongly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distrain.errors import UsageError
from distrain.job.dump import to_yaml
from distrain.job.load import parse_job
from distrain.job.spec import JobSpec, ProgramSpec
from distrain.launcher.events import Event
from distrain.launcher.runs.checkpoints import Checkpoint
from distrain.launcher.runs.resume import Resumption, begin, misfits, nothing_left, recorded
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks.records import Records

NOW = 1_790_000_000.0
BETWEEN = Checkpoint(200, Path("step-00000200"), "step-00000200", 2, 1, 100, 128, 1, 1, False)
MIDWAY = replace(BETWEEN, step=250)


def job(**keys: Any) -> JobSpec:
    return parse_job(json.dumps({"name": "a", **keys}), "a.yaml")


def judged(new: JobSpec, checkpoint: Checkpoint | None, old: JobSpec | None = None) -> tuple[str, ...]:
    """What is refused; warnings begin with `!`."""
    refusals, warnings = misfits((old or job()).to_json(), new.to_json(), checkpoint)
    return (*refusals, *(f"!{warning}" for warning in warnings))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"training": {"epochs": 7}},
        {"training": {"callbacks": ["TerminateOnNaN"]}},
        {"training": {"validation": 2, "cache": True, "steps_per_call": 5}},
        {"training": {"steps_per_epoch": 100}},  # as it was, in other words
        {"env": {"A": "b"}, "checkpoint": {"every_steps": 3}, "restart": False, "warm": False},
        {"cluster": {"start_timeout_s": 7, "hosts": ["local:1"]}},
    ],
)
@pytest.mark.parametrize("checkpoint", [BETWEEN, MIDWAY, None])
def test_what_may_change_changes_in_silence(keys: dict[str, Any], checkpoint: Checkpoint | None) -> None:
    assert judged(job(**keys), checkpoint) == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model": "mlp"}, "model differs, and the checkpoint holds the weights of the model that it was"),
        ({"dataset": {"batch_size": 64}}, "dataset.batch_size differs, and steps are counted in batches of one size"),
        ({"training": {"steps_per_epoch": 50}}, "training.steps_per_epoch differs, and steps are counted"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer differs, and the checkpoint holds the state"),
        (
            {"training": {"optimizer": {"name": "adam", "learning_rate": 0.5}}},
            "training.optimizer differs, and the checkpoint holds the state of the optimizer that it was, its learning",
        ),
        ({"training": {"precision": "mixed_float16"}}, "training.precision differs, and the checkpoint holds"),
    ],
)
@pytest.mark.parametrize("checkpoint", [BETWEEN, MIDWAY])
def test_what_fits_no_checkpoint_is_refused(keys: dict[str, Any], said: str, checkpoint: Checkpoint) -> None:
    (refusal,) = judged(job(**keys), checkpoint)
    assert refusal.startswith(said)
    assert judged(job(**keys), None) == ()


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"training": {"seed": 2}}, "training.seed"),
        ({"training": {"shuffle": False}}, "training.shuffle"),
        ({"dataset": "mnist"}, "dataset.name"),
        ({"training": {"metrics": ["accuracy", "mean_squared_error"]}}, "training.metrics"),
    ],
)
def test_what_an_epoch_is_made_of_changes_between_epochs_alone(keys: dict[str, Any], key: str) -> None:
    (refusal,) = judged(job(**keys), MIDWAY)
    assert refusal.startswith(f"{key} differs, and the checkpoint is from the middle of an epoch, ")
    assert judged(job(**keys), BETWEEN) == (f"!{key} is another from epoch 3 on",)


def test_another_cluster_trains_on_but_not_to_the_last_bit() -> None:
    new = job(strategy="MultiWorkerMirrored", cluster={"workers": 2})
    assert judged(new, MIDWAY) == tuple(
        f"!{what}: the weights will not be, to the last bit, those of a run that was not resumed"
        for what in ("strategy.name was OneDevice and is MultiWorkerMirrored", "cluster.workers was 1 and is 2")
    )


def test_a_program_is_no_training() -> None:
    program = JobSpec("a", program=ProgramSpec(("x",)))
    assert judged(program, None) == ("it was a job that distrain trains, and this is a program",)
    assert judged(job(), None, old=program) == ("it was a program, and this is a job that distrain trains",)
    assert judged(JobSpec("b", program=ProgramSpec(("y", "z"))), None, old=program) == ()


# ---- of a run directory


@pytest.fixture
def origin(tmp_path: Path) -> RunDir:
    rundir = RunDir.create(tmp_path / "runs", "a", now=NOW)
    rundir.write_job(to_yaml(job(training={"epochs": 3})))
    return rundir


def start(rundir: RunDir, **data: Any) -> None:
    records = Records(rundir, print)
    records.event(Event(NOW, "run_started", 1, data={"run": rundir.name, **data}))
    records.close()


def test_its_own_job_is_taken_with_options_over_it(
    origin: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start(origin, cwd=str(tmp_path), job_file=str(tmp_path / "sub" / "job.yaml"))
    same, job_file = recorded(origin)
    assert same == job(training={"epochs": 3})
    assert job_file == tmp_path / "sub" / "job.yaml"
    more, _ = recorded(origin, ["training.epochs=9"], "b")
    assert (more.training.epochs, more.name) == (9, "b")


def test_a_run_of_another_folder_is_not_guessed_at(
    origin: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(origin, cwd="/nowhere/at/all", job_file=None)
    monkeypatch.chdir(tmp_path)
    said = rf"{origin.name} was started in /nowhere/at/all, .* `distrain run JOB --resume {origin.name}`"
    with pytest.raises(UsageError, match=said):
        recorded(origin)


def test_masked_secrets_must_be_given_again(origin: RunDir) -> None:
    origin.write_job(to_yaml(job(env={"API_TOKEN": "s3cret", "OTHER": "x"})))
    with pytest.raises(UsageError, match=rf"^env.API_TOKEN of {origin.name} is a secret, which is not kept"):
        recorded(origin)
    given, _ = recorded(origin, ["env.API_TOKEN=again"])
    assert given.env == {"API_TOKEN": "again", "OTHER": "x"}


def test_a_run_that_has_succeeded_has_nothing_left_unless_epochs_are_raised(origin: RunDir) -> None:
    assert nothing_left(origin, job(training={"epochs": 3})) is None
    for state in ("failed", "stopped"):
        origin.write_summary({"state": state})
        assert nothing_left(origin, job(training={"epochs": 3})) is None
    origin.write_summary({"state": "succeeded"})
    assert nothing_left(origin, job(training={"epochs": 3})) == {"format": 1, "state": "succeeded"}
    assert nothing_left(origin, job(training={"epochs": 2})) is not None
    assert nothing_left(origin, job(training={"epochs": 4})) is None


def test_without_a_checkpoint_it_starts_from_the_beginning(origin: RunDir) -> None:
    beginning = begin(Resumption(origin), job(model="mlp"))
    assert beginning.checkpoint is None
    assert beginning.notes == (
        ("info", f"{origin.name} is resumed: it starts from the beginning: there is no checkpoint of it"),
    )
