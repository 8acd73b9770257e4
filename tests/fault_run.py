"""A run that is injured while it trains, watched from outside: what was seen, how soon, and when it trained again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process_table import Process, wait_until

EVERY_STEPS = 40
PATIENCE_S = 60.0
ENDING_S = 10.0
"""How long what does not belong to the run any more may take to end."""

USER_CODE = '''
"""Callbacks that misbehave once, when a file asks for it."""
import os
import time

import keras
import numpy as np


def _asked(what):
    """Whether this task is the one that takes the file away."""
    try:
        os.rename(what, f"{what}.{os.getpid()}")
    except OSError:
        return False
    return True


class Misbehaves(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if _asked("get-stuck"):
            while True:
                time.sleep(1)
        if _asked("raise"):
            raise RuntimeError("as was asked for")

    def on_epoch_end(self, epoch, logs=None):
        if os.path.exists("make-nan"):
            for weight in self.model.trainable_variables:
                weight.assign(np.full(weight.shape, np.nan))
'''


def job(strategy: str, **cluster: Any) -> dict[str, Any]:
    """A job that trains until it is stopped, and checkpoints every EVERY_STEPS steps."""
    return {
        "name": strategy.lower(),
        "dataset": {"name": "digits", "batch_size": 64},
        "model": "mlp",
        "training": {"epochs": 1_000_000, "callbacks": ["misbehaves:Misbehaves"]},
        "strategy": strategy,
        "cluster": {"contact_timeout_s": 3, **cluster},
        "checkpoint": {"every_steps": EVERY_STEPS, "keep": 3},
        "restart": {"max": 1000},
        "watchdog": {"step_timeout_s": 6, "nan": "rollback"},
    }


@dataclass(frozen=True)
class Outcome:
    """What came of one injury. Seconds count from the injury. `lost`: hosts whose connection was given up."""

    happened: str
    lost: frozenset[str]
    detected_s: float
    resumed_s: float
    processes_left: int
    steps_lost: int


class FaultRun:
    """A run whose events `read` gives, and whose processes `processes`; `launcher_pid` is that of distrain itself."""

    def __init__(
        self, read: Callable[[], list[dict[str, Any]]], processes: Callable[[], list[Any]], alive: Callable[[], bool]
    ) -> None:
        self._read = read
        self._processes = processes
        self._alive = alive

    def events(self, *kinds: str, after: float = 0.0) -> list[dict[str, Any]]:
        return [each for each in self._read() if each["kind"] in kinds and each["time"] >= after]

    def pid(self, task: str) -> int:
        """Of the task's latest start."""
        return int([each["pid"] for each in self.events("task_started") if each["task"] == task][-1])

    def trains(self, after: float = 0.0) -> None:
        """Until it has made steps, and a checkpoint, since `after`."""

        def made() -> bool:
            assert self._alive(), "the run has ended"
            checkpoints = self.events("checkpoint", after=after)
            return bool(checkpoints) and any(
                each["step"] > checkpoints[0]["step"] for each in self.events("progress", after=after)
            )

        wait_until(made, PATIENCE_S, "steps and a checkpoint")

    def injured(
        self, injure: Callable[[], None], *, whole: bool = True, until: Callable[[], None] | None = None
    ) -> Outcome:
        """Injures it, and waits until it trains again. `whole`: all tasks are started again, else one alone. `until`:
        what makes up for the injury once it was noticed.
        """
        self.trains(after=self._last_start())
        before, attempt = len(self._processes()), self._attempt()
        at = time.time()
        injure()
        noticed = self._first(lambda: self.events("task_failed", "preempting", "respawning", after=at), "the failure")
        if until is not None:
            until()
        if whole:
            again = self._first(
                lambda: [each for each in self.events("progress", after=at) if each["attempt"] > attempt],
                "a step of the next attempt",
            )
        else:
            again = self._first(
                lambda: [e for e in self.events("ready", after=at) if e["task"] == noticed["task"]], "the task again"
            )
        with contextlib.suppress(AssertionError):  # then it is seen in what is left
            wait_until(lambda: len(self._processes()) <= before, ENDING_S)
        return Outcome(
            happened=self._said(noticed),
            lost=frozenset(each["host"] for each in self.events("host_lost", after=at)),
            detected_s=noticed["time"] - at,
            resumed_s=again["time"] - at,
            processes_left=max(0, len(self._processes()) - before),
            steps_lost=self._steps_lost(at) if whole else 0,
        )

    def _first(self, found: Callable[[], list[dict[str, Any]]], what: str) -> dict[str, Any]:
        def there() -> bool:
            assert self._alive() or found(), f"the run has ended: {self.events('task_failed', 'run_ended')}"
            return bool(found())

        wait_until(there, PATIENCE_S, what)
        return found()[0]

    def _attempt(self) -> int:
        return max((each["attempt"] for each in self.events("attempt_started")), default=1)

    def _last_start(self) -> float:
        return max((each["time"] for each in self.events("attempt_started")), default=0.0)

    @staticmethod
    def _said(event: Mapping[str, Any]) -> str:
        message = str(event.get("message", ""))
        subject = event["task"] or event["host"] or ""
        return message if message.startswith(f"{subject}:") else f"{subject}: {message}"

    def _steps_lost(self, at: float) -> int:
        """The steps that were done twice: from where the next attempt began to the last that was told of before."""
        resumed = self.events("started", after=at)[0]
        done = [each["step"] for each in self.events("progress") if each["attempt"] < resumed["attempt"]]
        return max(0, max(done) - resumed["first_step"])


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "events.jsonl"
    text = path.read_text() if path.is_file() else ""
    # A line that is just being written has no newline yet.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def send(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)


def alive(processes: list[Process]) -> list[Process]:
    return [each for each in processes if each.state != "Z"]
