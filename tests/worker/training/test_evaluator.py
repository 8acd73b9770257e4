"""The evaluator: evaluates the checkpoints of a training that does not wait for it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from distrain.job.spec import CheckpointSpec, DatasetSpec, Named

from .conftest import wait_until

pytestmark = pytest.mark.tensorflow

EACH_EPOCH = CheckpointSpec(every_epochs=1, keep=50)
DATA = DatasetSpec("user_code:arrays", batch_size=48)


def validations(task: Any) -> dict[int, dict[str, float]]:
    """By step; each was told once."""
    found = [(e["step"], e["metrics"]) for e in task.of("metrics") if e["split"] == "validation"]
    assert len(dict(found)) == len(found), "a checkpoint was evaluated twice"
    return dict(found)


@pytest.mark.parametrize(
    ("strategy", "where"),
    [
        ("OneDevice", {}),
        ("MultiWorkerMirrored", {"workers": 2}),
        ("ParameterServer", {"workers": 1, "ps": 1}),
    ],
)
def test_it_finds_what_the_training_itself_would(
    strategy: str, where: dict[str, int], start: Any, make_job: Any
) -> None:
    common = {
        "model": Named("user_code:network"),
        "dataset": DATA,
        "epochs": 3,
        "optimizer": Named("SGD", {"learning_rate": 0.1}),
        **where,
    }
    expected = validations(start(make_job(strategy, **common)).succeed().chief)
    run = start(make_job(strategy, evaluators=1, checkpoint=EACH_EPOCH, **common)).succeed()
    evaluator = run.tasks["evaluator:0"]
    assert evaluator.status == 0
    assert not validations(run.chief), "whoever trains does not validate where somebody else does"
    found = validations(evaluator)
    written = [event["step"] for event in run.chief.of("checkpoint")]  # one that is due while another is written is not
    assert list(found) == written, "each checkpoint, in order"
    assert written[-1] == 30
    for step, metrics in found.items():
        if strategy != "ParameterServer" or step == 30:
            assert metrics == pytest.approx(expected[step], rel=1e-5)
    (last,) = [e for e in evaluator.of("metrics") if e["step"] == 30]
    assert last["epoch"] == 3
    assert len(evaluator.of("ready")) == len(evaluator.of("done")) == 1
    assert not evaluator.of("checkpoint")


def test_a_last_checkpoint_comes_whatever_the_intervals_are(start: Any, make_job: Any) -> None:
    spec = make_job(
        model=Named("user_code:network"),
        dataset=DATA,
        epochs=9,
        evaluators=1,
        checkpoint=CheckpointSpec(every_steps=1000),
        callbacks=(Named("user_code:Recorder", {"stop_after": 2}),),
    )
    run = start(spec).succeed()
    assert list(validations(run.tasks["evaluator:0"])) == [20]
    about = json.loads((run.run_dir / "checkpoints" / "step-00000020" / "checkpoint.json").read_text())
    assert [about["finished"], about["stopped"]] == [True, True]


def test_killed_and_started_again_it_goes_on(start: Any, make_job: Any) -> None:
    spec = make_job(
        model=Named("user_code:network"),
        dataset=DATA,
        epochs=400,
        evaluators=1,
        checkpoint=CheckpointSpec(every_epochs=1, keep=3),
        callbacks=(Named("user_code:Slowly", {"step_s": 0.02}),),
    )
    run = start(spec)
    evaluator = run.tasks["evaluator:0"]
    wait_until(lambda: len(evaluator.of("metrics")) >= 2, 60, run)
    evaluator.kill(signal.SIGKILL)
    wait_until(lambda: evaluator.poll() is not None, 10, run)
    before = max(validations(evaluator))
    assert run.chief.poll() is None, "nobody waits for the evaluator"
    again = start(spec, only=("evaluator:0",), beside=run).tasks["evaluator:0"]
    wait_until(lambda: max(validations(again), default=0) > before, 60, run)
    run.end()


def test_of_a_folder_with_others_it_takes_its_own_trainings_alone(start: Any, make_job: Any) -> None:
    """A damaged one, one that is gone while it is read, one of a future that was given up, one of another run."""
    common = {"model": Named("user_code:network"), "dataset": DATA, "checkpoint": EACH_EPOCH}
    run = start(make_job(epochs=2, **common)).succeed()
    folder = run.run_dir / "checkpoints"
    first, second = folder / "step-00000010", folder / "step-00000020"
    other = folder / "step-00000900"
    shutil.copytree(second, other)
    _edit(other, run="another", step=900)
    spec = make_job(epochs=2, evaluators=1, **common)
    # It goes on from the first: what the run has written after it is no more.
    evaluator = start(spec, only=("evaluator:0",), after=run, resume={"path": str(first), "skip_to": None})
    task = evaluator.tasks["evaluator:0"]
    wait_until(lambda: bool(task.of("metrics")), 60, evaluator)
    attempt = evaluator.attempt
    damaged = folder / "step-00000015"
    shutil.copytree(second, folder / ".copy")
    with open(folder / ".copy" / "state.npz", "ab") as file:
        file.write(b"more")
    _edit(folder / ".copy", run=evaluator.run, attempt=attempt, step=15, epoch_ended=False)
    (folder / ".copy").rename(damaged)
    wait_until(lambda: bool(task.of("note")), 60, evaluator)
    (note,) = task.of("note")
    assert note["level"] == "warning"
    assert "the checkpoint of step 15 is not evaluated" in note["message"]
    shutil.copytree(second, folder / ".copy")
    _edit(folder / ".copy", run=evaluator.run, attempt=attempt)
    shutil.rmtree(second)
    (folder / ".copy").rename(second)
    wait_until(lambda: task.poll() is not None, 60, evaluator)
    assert task.status == 0, evaluator.report()
    assert list(validations(task)) == [10, 20]


def _edit(path: Path, **changes: Any) -> None:
    file = path / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({}, "an evaluator evaluates checkpoints, but the job writes none: set checkpoint"),
        (
            {"checkpoint": EACH_EPOCH, "dataset": DatasetSpec("user_code:unknown_length"), "steps_per_epoch": 3},
            "an evaluator needs examples for validation, and the dataset has none: give it some, or set "
            "cluster.evaluators to 0",
        ),
    ],
)
def test_without_checkpoints_or_examples_it_says_so(
    where: dict[str, Any], sentence: str, start: Any, make_job: Any
) -> None:
    run = start(make_job(model=Named("user_code:network"), evaluators=1, **where), only=("evaluator:0",))
    task = run.tasks["evaluator:0"]
    wait_until(lambda: task.poll() is not None, 60, run)
    assert task.status == 2, task.text
    assert task.of("failure")[0]["message"] == sentence
