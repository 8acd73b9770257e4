"""What a script reports, from the call to what people and programs see of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distrain.launcher.events import Event, flaw
from distrain.launcher.sinks.panel import panel
from distrain.launcher.sinks.view import View
from distrain.launcher.sinks.words import Narrator, ending

T = 1_790_000_000.0


def told(text: str, **env: str) -> list[dict[str, Any]]:
    """The events of a program with that text."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as events:
        try:
            subprocess.run(
                [sys.executable, "-c", f"from distrain import report\n{text}"],
                cwd=Path(__file__).parents[2],
                env={**os.environ, "DISTRAIN_EVENTS_FD": str(writer), **env},
                pass_fds=[writer],
                check=True,
                timeout=60,
            )
        finally:
            os.close(writer)
        found = [json.loads(line) for line in events]
    assert all(flaw(event["kind"], event) is None for event in found), found
    return found


MANY = "for step in range(1, 5001): report(step, loss=1 / step, epoch=(step - 1) // 2500 + 1, steps=5000)"


def test_what_comes_too_fast_is_left_out_but_never_the_last_of_an_epoch() -> None:
    events = told(MANY, DISTRAIN_CHIEF="1")
    metrics = [event for event in events if event["kind"] == "metrics"]
    assert len(metrics) < 100
    steps = [event["step"] for event in metrics]
    assert steps == sorted(set(steps))
    assert {1, 2500, 5000} <= set(steps)
    assert metrics[-1]["metrics"] == {"loss": 1 / 5000}
    assert [event["step"] for event in events if event["kind"] == "progress"] == steps


def test_other_tasks_tell_only_how_far_they_are() -> None:
    assert {event["kind"] for event in told(MANY, DISTRAIN_CHIEF="0", DISTRAIN_ROLE="worker")} == {"progress"}


def test_an_evaluator_tells_of_validation() -> None:
    (event,) = told("report(7, loss=0.5)", DISTRAIN_CHIEF="0", DISTRAIN_ROLE="evaluator")
    assert (event["kind"], event["split"], event["step"]) == ("metrics", "validation", 7)


def test_without_distrain_nothing_happens() -> None:
    subprocess.run(
        [sys.executable, "-c", "from distrain import report; report(step=1, loss=2)"],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("DISTRAIN_")},
        check=True,
        timeout=60,
    )


def test_a_wrong_call_is_an_error_with_or_without_distrain() -> None:
    from distrain import report

    with pytest.raises(ValueError, match="it is 'train' or 'validation'"):
        report(1, split="test")


def programs_run(*events: Event) -> View:
    started = {
        "run": "train-1",
        "run_dir": "/runs/train-1",
        "name": "train",
        "strategy": "train.py",
        "tasks": [["worker:0", "local"], ["worker:1", "local"]],
        "epochs": 0,
        "argv": [],
    }
    view = View()
    for event in (
        Event(T, "run_started", data=started),
        Event(T, "attempt_started", 1),
        *(Event(T, "task_started", 1, f"worker:{index}", "local", {"pid": 1}) for index in (0, 1)),
        *events,
    ):
        view = view.after(event)
    return view


def progress(step: int, time: float, **changes: Any) -> Event:
    data = {"epoch": None, "step": step, "epochs": None, "steps": None, "examples_per_s": None, **changes}
    return Event(time, "progress", 1, "worker:0", "local", data)


def metrics(step: int, **changes: Any) -> Event:
    data = {"epoch": None, "step": step, "split": "train", "metrics": {"loss": 0.5}, "examples_per_s": None, **changes}
    return Event(T + 2, "metrics", 1, "worker:0", "local", data)


def shown(view: View, now: float) -> str:
    from rich.console import Console

    console = Console(width=80, height=20, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(panel(view, width=80, rows=12, now=now))
        return console.export_text()


def test_a_program_that_reports_nothing_looks_like_one_that_runs() -> None:
    text = shown(programs_run(), T + 5)
    assert "2 running" in text
    assert "ready" not in text
    assert "epoch" not in text


def test_steps_alone_are_shown_without_epochs() -> None:
    view = programs_run(metrics(40), progress(40, T + 2))
    text = shown(view, T + 5)
    assert "step 40" in text
    assert "loss 0.5" in text
    assert "epoch" not in text
    (line,) = Narrator().tell(progress(40, T + 20), view)
    assert line == "step 40 · loss 0.5000"


def test_what_is_left_follows_from_the_steps_that_are_planned() -> None:
    view = programs_run(
        progress(10, T + 2, epoch=1, epochs=2, steps=50), metrics(20), progress(20, T + 12, epoch=1, epochs=2, steps=50)
    )
    assert view.left_s(T + 12) == 30
    text = shown(view, T + 12)
    assert "40% · step 20/50" in text
    assert "epoch 1/2" in text
    validation = metrics(20, split="validation", epoch=1)
    assert Narrator().tell(validation, view) == ("epoch 1/2 · validation loss 0.5000",)
    assert Narrator().tell(metrics(20, split="validation"), view) == ("step 20 · validation loss 0.5000",)


@pytest.mark.parametrize(("steps", "facts"), [(0, "  time 1:15"), (20, "  epoch 1/2 · steps 20/50 · time 1:15")])
def test_the_account_of_a_program_tells_what_it_reported(steps: int, facts: str) -> None:
    reported = [progress(20, T + 12, epoch=1, epochs=2, steps=50)] if steps else []
    summary = {
        "state": "succeeded",
        "first_failure": None,
        "metrics": {"train": {}, "validation": {}},
        "epochs": 0,
        "steps": steps,
        "attempts": 1,
        "examples_per_s": None,
        "timings": {"total_s": 75.0, "recoveries": []},
    }
    view = programs_run(*reported, Event(T + 75, "run_ended", 1, data=summary))
    assert facts in ending(view, "runs/train-1")
