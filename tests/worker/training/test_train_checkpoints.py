"""Checkpoints: by the chief, when they are due, the newest kept, and never seen in part."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.job.spec import CheckpointSpec, Named

from .conftest import wait_until

pytestmark = pytest.mark.tensorflow


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    about = json.loads((folder / "checkpoint.json").read_text())
    with np.load(folder / "state.npz", allow_pickle=False) as arrays:
        return about, dict(arrays)


def visible(run: Any) -> list[Path]:
    folder = run.run_dir / "checkpoints"
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


SLOWLY = Named("user_code:Slowly", {"step_s": 0.02})
SLOWER = Named("user_code:Slowly", {"step_s": 0.06})
"""Time enough for each checkpoint to be on the disk before the next is due, which would replace it."""


def test_they_come_when_due_and_the_newest_stay(start: Any, make_job: Any) -> None:
    spec = make_job(
        "MultiWorkerMirrored",
        workers=2,
        epochs=2,
        callbacks=(SLOWER,),
        checkpoint=CheckpointSpec(every_steps=6, keep=2, keep_best=0),
    )
    run = start(spec).succeed()
    told = run.chief.of("checkpoint")
    assert [event["step"] for event in told] == [6, 12, 18, 24, 28], "the last is that of the end"
    assert [event["path"] for event in told[3:]] == [str(path.relative_to(run.run_dir)) for path in visible(run)]
    assert told[-1]["kept"] == ["step-00000024", "step-00000028"]
    assert run.tasks["worker:1"].of("checkpoint") == []
    assert sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()) == ["step-00000024", "step-00000028"]
    assert read(visible(run)[-1])[0]["finished"]
    about, arrays = read(visible(run)[-2])
    assert {key: about[key] for key in ("format", "step", "epoch", "seed", "steps_per_epoch", "workers")} == {
        "format": 2,
        "step": 24,
        "epoch": 1,
        "seed": 1,
        "steps_per_epoch": 14,
        "workers": 2,
    }
    assert (about["finished"], about["epoch_ended"], about["score"]) == (False, False, None)
    stored = {f"{group}/{n}" for group, paths in about["variables"].items() for n in range(len(paths))}
    assert stored == {name for name in arrays if name.startswith(("model/", "optimizer/"))}
    assert arrays["metrics"].shape[0] == 2, "a row for each replica"
    assert arrays["optimizer/0"] == 24, "the optimizer counts its steps in its first variable"
    kinds = [path.rpartition("/")[2] for path in about["variables"]["model"]]
    assert kinds == ["kernel", "bias"] * (len(kinds) // 2), "the weights, and nothing of metrics or optimizer"


def test_one_on_an_epochs_last_step_tells_of_that_epoch_too(start: Any, make_job: Any) -> None:
    checkpoint = CheckpointSpec(every_steps=7, every_epochs=1, keep=4)
    run = start(make_job(epochs=2, callbacks=(SLOWER,), checkpoint=checkpoint)).succeed()
    assert [event["step"] for event in run.chief.of("checkpoint")] == [7, 14, 21, 28]
    abouts = [read(folder)[0] for folder in visible(run)]
    assert [(about["step"], about["epoch"]) for about in abouts] == [(7, 0), (14, 1), (21, 1), (28, 2)]
    assert [about["epoch_ended"] for about in abouts] == [False, True, False, True]
    assert [about["finished"] for about in abouts] == [False, False, False, True]
    losses = [e["metrics"]["loss"] for e in run.chief.of("metrics") if e["split"] == "validation"]
    assert [about["score"] for about in abouts] == [None, losses[0], None, losses[1]]


@pytest.mark.parametrize(
    "where",
    [{}, {"strategy": "MultiWorkerMirrored", "workers": 2}, {"strategy": "ParameterServer", "workers": 2, "ps": 1}],
)
def test_by_time(where: dict[str, Any], start: Any, make_job: Any) -> None:
    """They come in the middle of an epoch, where nothing else would have the host stop."""
    spec = make_job(
        **where,
        epochs=1,
        steps_per_epoch=400,
        validation=0,
        callbacks=(SLOWLY,),
        checkpoint=CheckpointSpec(every_s=0.5),
    )
    run = start(spec)
    wait_until(lambda: len(run.chief.of("checkpoint")) >= 3 or run.chief.poll() is not None, 60, run)
    told = run.chief.of("checkpoint")
    assert len(told) >= 3, run.report()
    gaps = [run.chief.seen_at[run.chief.events.index(event)] for event in told]
    assert gaps[2] - gaps[0] > 0.9, "sooner than they were due"
    assert all(0 < event["step"] < 400 for event in told)
    about, arrays = read(visible(run)[-1])
    assert int(arrays["optimizer/0"]) == about["step"], "some steps were under way"


def test_one_that_cannot_be_written_is_a_warning_and_training_goes_on(
    start: Any, make_job: Any, tmp_path: Path
) -> None:
    blocked = tmp_path / "run-0" / "checkpoints"
    blocked.parent.mkdir()
    blocked.write_text("a file where the folder should be")
    spec = make_job(epochs=4, callbacks=(SLOWLY,), checkpoint=CheckpointSpec(every_epochs=1))
    run = start(spec)

    def warnings() -> list[str]:
        return [event["message"] for event in run.chief.of("note") if event["level"] == "warning"]

    wait_until(lambda: bool(warnings()) or run.chief.poll() is not None, 60, run)
    blocked.unlink()
    run.succeed()
    assert run.run_dir == blocked.parent
    told = [event["step"] for event in run.chief.of("checkpoint")]
    assert told == [14 * (epoch + 1) for epoch in range(4 - len(told), 4)]
    assert told
    assert [message.partition(", and training goes on")[0] for message in warnings()] == [
        f"the checkpoint of step {14 * (epoch + 1)} could not be written" for epoch in range(4 - len(told))
    ]


def test_a_model_that_cannot_be_written_says_where(start: Any, make_job: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "run-0" / "model.keras"
    (blocked / "in the way").mkdir(parents=True)
    run = start(make_job(epochs=1)).wait()
    assert run.chief.status == 1
    (failure,) = run.chief.of("failure")
    assert (failure["why"], failure["job_error"]) == ("file", False)
    assert failure["message"].startswith(f"the trained model could not be written as {blocked}: ")


def test_what_is_written_is_private(start: Any, make_job: Any) -> None:
    run = start(make_job(epochs=1, checkpoint=CheckpointSpec(every_epochs=1))).succeed()
    written = [path for path in run.run_dir.rglob("*") if path.name in ("model.keras", "state.npz", "checkpoint.json")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert len(written) == 3


@pytest.mark.parametrize(("strategy", "where"), [("OneDevice", {}), ("ParameterServer", {"workers": 2, "ps": 1})])
def test_by_epochs(strategy: str, where: dict[str, int], start: Any, make_job: Any) -> None:
    spec = make_job(strategy, epochs=5, callbacks=(SLOWLY,), checkpoint=CheckpointSpec(every_epochs=2, keep=3), **where)
    run = start(spec).succeed()
    assert [(event["step"], event["path"]) for event in run.chief.of("checkpoint")] == [
        (28, "checkpoints/step-00000028"),
        (56, "checkpoints/step-00000056"),
        (70, "checkpoints/step-00000070"),
    ]
    about, arrays = read(visible(run)[-2])
    assert (about["epoch"], int(arrays["optimizer/0"])) == (4, 56)


def test_a_kill_at_any_time_leaves_only_complete_ones(start: Any, make_job: Any) -> None:
    """Due at every step; looked at all the while, and after the chief is killed in the middle of it."""
    spec = make_job(
        model=Named("mlp"), epochs=10_000, validation=0, checkpoint=CheckpointSpec(every_steps=1, keep=2, keep_best=0)
    )
    run = start(spec)
    seen: set[str] = set()

    def many_seen() -> bool:
        for folder in visible(run):
            try:
                about, _ = read(folder)
            except FileNotFoundError:
                assert not folder.exists(), f"{folder} is there without its files"
            else:
                seen.add(folder.name)
                assert folder.name == f"step-{about['step']:08d}"
        assert run.chief.poll() is None, run.report()
        return len(seen) >= 30

    wait_until(many_seen, 60, run)
    run.chief.kill()
    wait_until(lambda: run.chief.poll() is not None, 5, run)
    left = visible(run)
    assert 1 <= len(left) <= 3
    for folder in left:
        about, arrays = read(folder)
        assert int(arrays["optimizer/0"]) == about["step"]
