"""A run whose tasks are toys: launcher, guard and agent are real, TensorFlow is not there."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from process_table import MARK, Process, marked, wait_until

LAUNCHER_TESTS = Path(__file__).parent / "launcher"


def toy_python(folder: Path) -> Path:
    """An interpreter to whom distrain's worker is a toy."""
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'if [ "$1 $2" = "-m distrain.worker" ]; then exec {sys.executable} -S {LAUNCHER_TESTS}/toy_worker.py; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


class ToyRun:
    """A run in a launcher process of its own."""

    def __init__(
        self,
        tmp_path: Path,
        strategy: str = "MultiWorkerMirrored",
        workers: int = 2,
        *,
        unread: bool = False,
        job: Mapping[str, Any] | None = None,
        drop: Collection[str] = (),
        **env: str,
    ) -> None:
        """`unread`: what the launcher prints goes into a pipe that nobody reads. `job`: more of the job; without, a
        failure is the end of it. `drop`: what the job does not have.
        """
        self.mark = uuid.uuid4().hex
        self.folder = tmp_path / self.mark
        self.folder.mkdir()
        python = toy_python(self.folder)
        job_file = self.folder / "job.yaml"
        keys = {
            "name": "toy",
            "strategy": strategy,
            "dataset": {"name": "digits", "batch_size": 60},
            "cluster": {"workers": workers},
            "warm": False,
            "restart": False,
            "env": env,
            **(job or {}),
        }
        job_file.write_text(json.dumps({key: value for key, value in keys.items() if key not in drop}))
        self.runs = self.folder / "runs"
        self.out = self.folder / "out"
        with self.out.open("wb") as out:
            self.launcher = subprocess.Popen(
                [sys.executable, str(LAUNCHER_TESTS / "drive.py"), str(job_file), str(self.runs), str(python)],
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if unread else out,
                stderr=out,
                start_new_session=True,
            )

    def close(self) -> None:
        """End what is left of it."""
        for process in self.processes():
            os.kill(process.pid, signal.SIGKILL)
        self.launcher.wait(10)
        if self.launcher.stdout is not None:
            self.launcher.stdout.close()

    @property
    def rundir(self) -> Path:
        (found,) = self.runs.iterdir()
        return found

    @property
    def text(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.rundir / "summary.json").read_text())
        return summary

    @property
    def events(self) -> list[dict[str, Any]]:
        text = (self.rundir / "events.jsonl").read_text()
        # A line that is just being written has no newline yet.
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def event(self, kind: str, task: str | None = None) -> dict[str, Any]:
        return next(event for event in self.events if event["kind"] == kind and task in (None, event["task"]))

    def all_ready(self) -> None:
        """Waits until every task of the plan has said `ready`, and what it starts afterwards is up to the test."""

        def ready() -> bool:
            if self.launcher.poll() is not None:
                raise AssertionError(f"the launcher ended early with {self.launcher.returncode}:\n{self.text}")
            found = list(self.runs.glob("*/plan.json"))
            if not found:
                return False
            tasks = json.loads(found[0].read_text())
            names = {task["task"] for task in tasks["tasks"]}
            return names <= {event["task"] for event in self.events if event["kind"] == "ready"}

        wait_until(ready, 30, "every task ready")

    def addresses(self) -> set[str]:
        return {task["address"] for task in json.loads((self.rundir / "plan.json").read_text())["tasks"]}

    def processes(self) -> list[Process]:
        return marked(self.mark)

    def agents(self) -> tuple[int, int]:
        """The pids of guard and agent: the launcher's child, and that one's."""
        by_parent = {process.parent: process.pid for process in self.processes()}
        guard = by_parent[self.launcher.pid]
        return guard, by_parent[guard]

    def wait(self, timeout_s: float = 30) -> int:
        return self.launcher.wait(timeout_s)

    def none_left(self, timeout_s: float = 10) -> float:
        return wait_until(lambda: not self.processes(), timeout_s, f"no process left of {self.processes()}")
