"""What a run came to: folds its events into `summary.json`. Reads and writes nothing."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import distrain
from distrain.launcher.events import Event
from distrain.launcher.supervise.restarts import MOST_PAST
from distrain.launcher.supervise.state import State

_TRAFFIC = ("sent_bytes", "received_bytes")


@dataclass
class Recovery:
    """From a failure to training again: after it in the next attempt, or by `respawned`, in the same one."""

    data: dict[str, Any]
    failed_at: float
    step: int = 0
    from_step: int | None = None
    respawned: str | None = None


@dataclass
class Tally:
    """Sees every event once, in order, and keeps the last word on each figure of the summary."""

    began: float
    resumed_from: Mapping[str, Any] | None = None
    attempts: int = 0
    first_attempt: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    epochs: int = 0
    steps: int = 0
    steps_per_epoch: int = 0
    examples_per_s: float | None = None
    evaluated: tuple[int, int] = (0, 0)
    """Attempt and step of the furthest checkpoint that an evaluator has told of."""
    to_ready_s: float | None = None
    to_first_step_s: float | None = None
    starts: Counter[str | None] = field(default_factory=Counter)
    carried: dict[tuple[str | None, int], Mapping[str, int | None]] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, float]] = field(default_factory=lambda: {"train": {}, "validation": {}})
    versions: dict[str, str] = field(
        default_factory=lambda: {"distrain": distrain.__version__, "python": platform.python_version()}
    )

    def event(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "run_started":
                self.resumed_from = data.get("resumed_from")
            case "attempt_started":
                self.attempts = event.attempt
                self.first_attempt = self.first_attempt or event.attempt
                self._starts_again(data)
            case "restarting" | "respawning":
                self._fails(event)
            case "started":
                self.steps_per_epoch, self.steps = data["steps_per_epoch"], data["first_step"]
            case "task_started":
                self.starts[event.task] += 1
            case "usage":
                self.carried[event.task, self.starts[event.task]] = {key: data.get(key) for key in _TRAFFIC}
            case "ready":
                if self.first_attempt in (0, event.attempt):
                    self.to_ready_s = event.time - self.began
                self._trains_again(event, None)
                self.versions.update(data.get("versions", {}))
            case "progress":
                if self.to_first_step_s is None and data["step"] > 0:
                    self.to_first_step_s = event.time - self.began
                self.steps = max(self.steps, data["step"])
                self._trains_again(event, data["step"])
                if self.steps_per_epoch:
                    self.epochs = self.steps // self.steps_per_epoch
            case "metrics" if not self._is_old(event):
                self.metrics[data["split"]] = {k: value for k, value in data["metrics"].items() if k != "step_loss"}
                self.examples_per_s = data.get("examples_per_s") or self.examples_per_s
            case "done" if "metrics" in data:
                self.epochs, self.steps = data["epochs"], data["steps"]
                self.examples_per_s = data["examples_per_s"]
                # Beside an evaluator the chief has no validation of its own.
                self.metrics.update({split: values for split, values in data["metrics"].items() if values})

    def _is_old(self, event: Event) -> bool:
        """Whether an evaluator, started again, tells of what it has been past before."""
        if not str(event.task).startswith("evaluator:"):
            return False
        told = event.attempt, event.data["step"]
        before, self.evaluated = self.evaluated, max(self.evaluated, told)
        return told < before

    def _fails(self, event: Event) -> None:
        data = event.data
        told = {"attempt": event.attempt, "cause": data["cause"], "task": event.task, "host": event.host}
        figures = {"detected_s": data["detected_s"], "resumed_s": None, "steps_lost": 0}
        alone = event.task if event.kind == "respawning" else None
        self.recoveries.append(
            Recovery({**told, **figures}, data["failed_at"], step=data.get("step", 0), respawned=alone)
        )
        del self.recoveries[:-MOST_PAST]

    def _starts_again(self, data: Mapping[str, Any]) -> None:
        if self.recoveries and self.recoveries[-1].respawned is None:
            recovery = self.recoveries[-1]
            recovery.from_step = data["from_step"]
            recovery.data["steps_lost"] = max(0, recovery.step - data["from_step"])

    def _trains_again(self, event: Event, step: int | None) -> None:
        """A task is ready, or has made so many steps."""
        for recovery in self.recoveries:
            if recovery.data["resumed_s"] is not None:
                continue
            alone = step is None and recovery.respawned == event.task is not None
            together = recovery.from_step is not None and step is not None and step > recovery.from_step
            if alone or (together and event.attempt == recovery.data["attempt"] + 1):
                recovery.data["resumed_s"] = round(event.time - recovery.failed_at, 3)

    def summary(self, state: State, *, run: str, name: str, ended: float) -> dict[str, Any]:
        """`summary.json`. `first_failure`: the one that the run did not recover from, also when it was stopped
        afterwards.
        """
        first = state.first_failure
        return {
            "format": 1,
            "run": run,
            "name": name,
            "state": state.outcome,
            "exit_code": state.exit_code,
            "resumed_from": self.resumed_from,
            "attempts": self.attempts,
            "restarts": state.restarted,
            "first_failure": first.to_json() if first is not None else None,
            "failures": [failure.to_json() for failure in (*state.past, *([first] if first is not None else []))],
            "stragglers": [dict(straggler) for straggler in state.stragglers],
            "metrics": self.metrics,
            "epochs": self.epochs,
            "steps": self.steps,
            "examples_per_s": self.examples_per_s,
            "traffic": {key: _total([counts[key] for counts in self.carried.values()]) for key in _TRAFFIC},
            "timings": {
                "to_ready_s": _rounded(self.to_ready_s),
                "to_first_step_s": _rounded(self.to_first_step_s),
                "total_s": _rounded(ended - self.began),
                "recoveries": [recovery.data for recovery in self.recoveries],
            },
            "versions": self.versions,
        }


def _total(counts: Sequence[int | None]) -> int | None:
    """None: there are none, or some cannot be told."""
    told = [count for count in counts if count is not None]
    return sum(told) if told and len(told) == len(counts) else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
