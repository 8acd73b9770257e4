"""When a checkpoint is due, where one stands with it, and how busy tasks are: all without a training."""

from __future__ import annotations

from typing import Any

import pytest

from distrain.worker.training.meter import Busy
from distrain.worker.training.place import Place
from distrain.worker.training.turns import Turns


def about(step: int, epoch: int, *, ended: bool = False, stopped: bool = False) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "steps_per_epoch": 10, "epoch_ended": ended, "stopped": stopped}


@pytest.mark.parametrize(
    ("checkpoint", "skip_to", "place"),
    [
        (about(23, 2), None, Place(23, 2, begun=True)),
        (about(20, 2, ended=True), None, Place(20, 2)),
        # Someone asked to leave at the epoch's last step: its end is still to come.
        (about(20, 1), None, Place(20, 1, begun=True)),
        (about(23, 3, ended=True, stopped=True), None, Place(23, 3, over=True)),
        (about(23, 2), 23, Place(23, 2, begun=True)),
        (about(23, 2), 27, Place(27, 2, begun=True)),
        (about(23, 2), 30, Place(30, 2, begun=True)),
        (about(23, 2), 31, Place(31, 3)),
        (about(20, 2, ended=True), 21, Place(21, 2)),
        (about(20, 2, ended=True), 30, Place(30, 2)),
    ],
)
def test_where_a_checkpoint_stands(checkpoint: dict[str, Any], skip_to: int | None, place: Place) -> None:
    assert Place.of(checkpoint, skip_to) == place


def test_turns_of_all_kinds_at_once() -> None:
    now = [100.0]
    turns = Turns({"every_steps": 4, "every_epochs": 2, "every_s": 60.0}, clock=lambda: now[0])
    assert [turns.station(step, 10) for step in (0, 3, 4, 9)] == [4, 4, 8, 10]
    assert [step for step in range(1, 13) if turns.due_at(step)] == [4, 8, 12]
    assert [epochs for epochs in range(1, 6) if turns.due_after(epochs)] == [2, 4]
    now[0] = 159.9
    assert not turns.due_by_time()
    now[0] = 160.0
    assert turns.due_by_time()
    turns.taken()
    assert not turns.due_by_time()


def test_without_checkpoints_nothing_is_due() -> None:
    turns = Turns(None)
    assert turns.station(3, 10) == 10
    assert [turns.due_at(4), turns.due_after(1), turns.due_by_time()] == [False] * 3


def test_how_busy_tasks_are_is_a_mean_over_the_calls_since() -> None:
    busy = Busy()
    busy.count(1, 0.4, {"worker:0": (0.2, 1)})
    busy.count(3, 0.2, {"worker:0": (0.1, 3), "worker:1": (0.5, 2)})
    told = busy.told()
    assert told["busy_s"] == pytest.approx(0.25)
    assert told["of"] == {
        "worker:0": {"step_s": pytest.approx(0.125), "steps": 4},
        "worker:1": {"step_s": pytest.approx(0.5), "steps": 2},
    }
    assert busy.told() == {"busy_s": None}
