"""One `distrain launch` on the hosts of a lab, from outside: its words, its run directory, its processes here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netlab.lab import Lab
from process_table import MARK, Process, marked, wait_until

READY_S = 30.0
END_S = 30.0


def write_job(folder: Path, **keys: Any) -> str:
    """A job file in the user's folder. Returns its name, which `launch` takes."""
    (folder / "job.yaml").write_text(json.dumps(keys, ensure_ascii=False))
    return "job.yaml"


class Launch:
    """A launcher in a session of its own, started in `user`. What it leaves is in `folder`.

    Its own options come before `words`: `--python` (None: as a host has it), `--runs-dir`, and whatever `sets` says.
    `bin`: where its ssh is, in place of the lab's.
    """

    def __init__(
        self,
        lab: Lab,
        user: Path,
        folder: Path,
        words: tuple[str, ...],
        *,
        python: str | None = sys.executable,
        sets: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        bin: Path | None = None,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = folder
        self.runs = folder / f"runs-{self.mark[:4]}"
        self.out = folder / f"out-{self.mark[:4]}"
        options = ["--runs-dir", str(self.runs)]
        options += ["--python", python] if python is not None else []
        for each in sets:
            options += ["--set", each]
        path = f"{bin or lab.bin}:{os.environ['PATH']}"
        with self.out.open("wb") as out:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "distrain", "launch", *options, *words],
                cwd=user,
                env={**os.environ, "PATH": path, MARK: self.mark, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def close(self) -> None:
        """End what is left of it on this machine."""

        def ended() -> bool:
            left = self.processes()
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            return not left

        try:
            wait_until(ended, 10, "the end of what was killed")
        finally:
            self.launcher.wait(10)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.out.read_text(errors="replace")

    @property
    def rundir(self) -> Path:
        (found,) = self.runs.iterdir()
        return found

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.rundir / "summary.json").read_text())
        return summary

    @property
    def events(self) -> list[dict[str, Any]]:
        path = next(self.runs.glob("*/events.jsonl"), None)
        text = path.read_text() if path else ""
        # A line that is just being written has no newline yet.
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def log(self, task: str) -> str:
        return (self.rundir / "logs" / f"{task.replace(':', '-')}.log").read_text(errors="replace")

    def plan(self, task: str) -> dict[str, Any]:
        tasks = json.loads((self.rundir / "plan.json").read_text())["tasks"]
        (found,) = (each for each in tasks if each["task"] == task)
        return dict(found)

    def processes(self) -> list[Process]:
        """What it has started on this machine, itself included."""
        return marked(self.mark)

    def connection(self, host: str) -> int:
        """The process id of its ssh to that host."""
        (pid,) = (
            each.pid
            for each in self.processes()
            if each.parent == self.launcher.pid and f" {host} " in f" {each.command} "
        )
        return pid

    def wait(self, exit_code: int, timeout_s: float = END_S) -> None:
        """Until it ends, as it should."""
        try:
            self.launcher.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s:\n{self.text}") from None
        assert self.launcher.returncode == exit_code, f"ended with {self.launcher.returncode}:\n{self.text}"
        assert "Traceback" not in self.text, self.text

    def wait_for(self, text: str, *tasks: str, timeout_s: float = READY_S) -> None:
        """Until each of these tasks has printed `text`, and its log has it."""

        def printed() -> bool:
            assert self.launcher.poll() is None, f"ended early with {self.launcher.returncode}:\n{self.text}"
            return bool(list(self.runs.glob("*/plan.json"))) and all(
                (self.rundir / "logs" / f"{task.replace(':', '-')}.log").is_file() and text in self.log(task)
                for task in tasks
            )

        wait_until(printed, timeout_s, f"{text!r} from {', '.join(tasks)}; so far:\n{self.text}")

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        os.kill(self.launcher.pid, signal.SIGINT)
