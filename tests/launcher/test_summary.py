"""What a run came to, from its events."""

from __future__ import annotations

from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.summary import Tally
from distrain.launcher.supervise import begin


def summary(*events: tuple[float, str, dict[str, Any]]) -> dict[str, Any]:
    tally = Tally(began=100.0)
    for time, kind, data in events:
        tally.event(Event(time, kind, 1, "worker:0", "local", data))
    return tally.summary(begin((), "worker:0", time=100.0), run="r", name="n", ended=160.0)


STARTED = (103.0, "started", {"epochs": 3, "steps_per_epoch": 20, "first_step": 0, "batch_size": 4})


def test_a_run_that_was_stopped_counts_the_epochs_that_are_whole() -> None:
    def after(step: int) -> Any:
        return summary(STARTED, (104.0, "progress", {"epoch": 2, "step": step, "examples_per_s": 9.0}))["epochs"]

    assert [after(step) for step in (1, 19, 20, 39, 40)] == [0, 0, 1, 1, 2]


def test_times_are_those_of_the_last_ready_and_the_first_step() -> None:
    figures = summary(
        (102.0, "ready", {"versions": {"keras": "3"}}),
        (102.5, "ready", {"versions": {"keras": "3"}}),
        STARTED,
        (104.25, "progress", {"epoch": 1, "step": 1, "examples_per_s": None}),
        (105.0, "progress", {"epoch": 1, "step": 2, "examples_per_s": 5.0}),
    )
    assert figures["timings"] == {"to_ready_s": 2.5, "to_first_step_s": 4.25, "total_s": 60.0, "recoveries": []}
    assert figures["versions"]["keras"] == "3"


def test_one_steps_loss_is_no_figure_of_the_run() -> None:
    metrics = {"epoch": 1, "step": 2, "split": "train", "metrics": {"loss": 0.5, "step_loss": 0.7}}
    assert summary(STARTED, (104.0, "metrics", metrics))["metrics"] == {"train": {"loss": 0.5}, "validation": {}}
