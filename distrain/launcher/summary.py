"""What a run came to: folds its events into `summary.json`. Reads and writes nothing."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import distrain
from distrain.launcher.events import Event
from distrain.launcher.state import State


@dataclass
class Tally:
    """Sees every event once, in order, and keeps the last word on each figure of the summary."""

    began: float
    attempts: int = 0
    epochs: int = 0
    steps: int = 0
    steps_per_epoch: int = 0
    examples_per_s: float | None = None
    to_ready_s: float | None = None
    to_first_step_s: float | None = None
    metrics: dict[str, Mapping[str, float]] = field(default_factory=lambda: {"train": {}, "validation": {}})
    versions: dict[str, str] = field(
        default_factory=lambda: {"distrain": distrain.__version__, "python": platform.python_version()}
    )

    def event(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "attempt_started":
                self.attempts = event.attempt
            case "started":
                self.steps_per_epoch, self.steps = data["steps_per_epoch"], data["first_step"]
            case "ready":
                self.to_ready_s = event.time - self.began
                self.versions.update(data.get("versions", {}))
            case "progress":
                if self.to_first_step_s is None and data["step"] > 0:
                    self.to_first_step_s = event.time - self.began
                self.steps = max(self.steps, data["step"])
                if self.steps_per_epoch:
                    self.epochs = self.steps // self.steps_per_epoch
            case "metrics":
                self.metrics[data["split"]] = {k: value for k, value in data["metrics"].items() if k != "step_loss"}
                self.examples_per_s = data.get("examples_per_s") or self.examples_per_s
            case "done" if "metrics" in data:
                self.epochs, self.steps = data["epochs"], data["steps"]
                self.examples_per_s = data["examples_per_s"]
                self.metrics.update(data["metrics"])

    def summary(self, state: State, *, run: str, name: str, ended: float) -> dict[str, Any]:
        """`summary.json`. `first_failure` is there also when the run was stopped afterwards."""
        first = state.first_failure
        return {
            "format": 1,
            "run": run,
            "name": name,
            "state": state.outcome,
            "attempts": self.attempts,
            "first_failure": first.to_json() if first is not None else None,
            "metrics": self.metrics,
            "epochs": self.epochs,
            "steps": self.steps,
            "examples_per_s": self.examples_per_s,
            "timings": {
                "to_ready_s": _rounded(self.to_ready_s),
                "to_first_step_s": _rounded(self.to_first_step_s),
                "total_s": _rounded(ended - self.began),
                "recoveries": [],
            },
            "versions": self.versions,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
