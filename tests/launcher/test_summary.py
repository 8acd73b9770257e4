"""What a run came to, from its events."""

from __future__ import annotations

from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.summary import Tally
from distrain.launcher.supervise.decide import begin


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


def test_validation_is_that_of_the_furthest_checkpoint() -> None:
    tally = Tally(began=100.0)

    def tell(attempt: int, task: str, step: int, split: str = "validation") -> None:
        data = {"epoch": 1, "step": step, "split": split, "metrics": {"loss": float(step)}}
        tally.event(Event(101.0, "metrics", attempt, task, "local", data))

    for attempt, step in ((1, 200), (1, 100), (1, 300), (1, 300), (1, 200)):
        tell(attempt, "evaluator:0", step)
    assert tally.metrics["validation"] == {"loss": 300.0}
    tell(2, "evaluator:0", 100)
    assert tally.metrics["validation"] == {"loss": 100.0}
    tell(2, "worker:0", 10, split="train")
    done = {"epochs": 1, "steps": 10, "examples_per_s": 1.0, "metrics": {"train": {"loss": 1.0}, "validation": {}}}
    tally.event(Event(102.0, "done", 2, "worker:0", "local", done))
    assert tally.metrics == {"train": {"loss": 1.0}, "validation": {"loss": 100.0}}


def test_traffic_is_that_of_all_tasks_however_often_they_were_started() -> None:
    tally = Tally(began=100.0)

    def tell(kind: str, task: str, **data: Any) -> None:
        tally.event(Event(101.0, kind, 1, task, "local", data))

    def traffic() -> Any:
        return tally.summary(begin((), "worker:0", time=100.0), run="r", name="n", ended=160.0)["traffic"]

    assert traffic() == {"sent_bytes": None, "received_bytes": None}
    tell("task_started", "worker:0", pid=1)
    tell("usage", "worker:0", sent_bytes=1, received_bytes=2)
    tell("usage", "worker:0", sent_bytes=10, received_bytes=20)
    tell("usage", "worker:1", sent_bytes=100, received_bytes=200)
    tell("task_started", "worker:0", pid=2)
    tell("usage", "worker:0", sent_bytes=1000, received_bytes=2000)
    assert traffic() == {"sent_bytes": 1110, "received_bytes": 2220}
    tell("usage", "worker:2", sent_bytes=None, received_bytes=None)
    assert traffic() == {"sent_bytes": None, "received_bytes": None}


def of_attempts(*events: tuple[float, str, int, str | None, dict[str, Any]]) -> list[dict[str, Any]]:
    tally = Tally(began=100.0)
    for time, kind, attempt, task, data in events:
        tally.event(Event(time, kind, attempt, task, "local", data))
    figures = tally.summary(begin((), "worker:0", time=100.0), run="r", name="n", ended=160.0)
    recoveries: list[dict[str, Any]] = figures["timings"]["recoveries"]
    return recoveries


def restarting(step: int) -> dict[str, Any]:
    return {"cause": "crash", "detected_s": 0.25, "failed_at": 110.0, "step": step}


def progress(step: int) -> dict[str, Any]:
    return {"epoch": 1, "step": step, "examples_per_s": None}


def test_a_recovery_is_from_the_failure_to_the_first_step_of_the_next_attempt() -> None:
    (recovery,) = of_attempts(
        (101.0, "attempt_started", 1, None, {"from_step": 0}),
        (109.0, "progress", 1, "worker:0", progress(23)),
        (110.5, "restarting", 1, "worker:1", restarting(23)),
        (111.0, "progress", 1, "worker:0", progress(24)),
        (111.0, "attempt_started", 2, None, {"from_step": 20}),
        (112.0, "progress", 2, "worker:0", progress(20)),
        (113.5, "progress", 2, "worker:0", progress(21)),
        (114.0, "progress", 2, "worker:1", progress(22)),
    )
    assert recovery == {
        "attempt": 1,
        "cause": "crash",
        "task": "worker:1",
        "host": "local",
        "detected_s": 0.25,
        "resumed_s": 3.5,
        "steps_lost": 3,
    }


def test_an_attempt_that_never_trained_recovered_nothing() -> None:
    recoveries = of_attempts(
        (101.0, "attempt_started", 1, None, {"from_step": 0}),
        (110.5, "restarting", 1, "worker:1", restarting(23)),
        (111.0, "attempt_started", 2, None, {"from_step": 20}),
        (112.0, "restarting", 2, "worker:1", restarting(20)),
        (113.0, "attempt_started", 3, None, {"from_step": 20}),
        (114.0, "progress", 3, "worker:0", progress(21)),
    )
    assert [recovery["resumed_s"] for recovery in recoveries] == [None, 4.0]


def test_a_task_started_again_alone_has_recovered_when_it_is_ready() -> None:
    (recovery,) = of_attempts(
        (110.5, "respawning", 1, "worker:1", restarting(0)),
        (111.0, "ready", 1, "worker:0", {}),
        (112.0, "ready", 1, "worker:1", {}),
    )
    assert (recovery["resumed_s"], recovery["steps_lost"]) == (2.0, 0)


def test_ready_is_what_the_first_attempt_was() -> None:
    tally = Tally(began=100.0)
    for attempt, time in ((1, 102.0), (2, 150.0)):
        tally.event(Event(time - 1, "attempt_started", attempt, data={"from_step": 0}))
        tally.event(Event(time, "ready", attempt, "worker:0", "local", {}))
    assert tally.to_ready_s == 2.0
