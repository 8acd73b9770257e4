"""What a task may say: anything else must not reach whoever relies on it."""

from __future__ import annotations

from typing import Any

import pytest

from distrain.launcher.events import flaw


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("progress", {"epoch": 1, "step": 3, "examples_per_s": None, "step_s": 0.1}, None),
        ("progress", {"epoch": 1, "step": "3"}, "a `progress` event whose `step` is '3'"),
        ("progress", {}, "a `progress` event whose `step` is None"),
        ("progress", {"epoch": None, "step": 3, "epochs": None, "steps": 10, "examples_per_s": None}, None),
        ("progress", {"epoch": 1.5, "step": 3}, "a `progress` event whose `epoch` is 1.5"),
        ("metrics", {"epoch": 1, "step": 3, "split": "train", "metrics": {"loss": float("nan")}}, None),
        (
            "metrics",
            {"epoch": 1, "step": 3, "split": "train", "metrics": [1]},
            "a `metrics` event whose `metrics` is [1]",
        ),
        ("done", {}, None),
        ("done", {"epochs": 1}, "a `done` event whose `steps` is None"),
        ("task_exited", {"exit_code": 0}, "an event of the unknown kind 'task_exited'"),
        ("signal", {"number": 2}, "an event of the unknown kind 'signal'"),
    ],
)
def test_events_of_tasks_are_checked(kind: str, data: dict[str, Any], said: str | None) -> None:
    assert flaw(kind, data) == said
