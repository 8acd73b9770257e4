"""`distrain run` for the benchmarks: the job that they share, and one run of it followed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from processes import Processes
from side_by_side import Measured

POLL_S = 0.02
END_TIMEOUT_S = 30.0


def data_folder() -> Path:
    """MNIST's files: those shared beside the repository, else `$DISTRAIN_DATA/mnist`. Ends the program without."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist-10k"
    for folder in (beside, Path(os.environ.get("DISTRAIN_DATA", ".")) / "mnist"):
        if folder.is_dir():
            return folder
    sys.exit(f"MNIST is missing: put its four files into {beside}, or into mnist/ in a folder and set DISTRAIN_DATA")


def job(strategy: str, *, workers: int = 1, ps: int = 0, batch_size: int = 128, **training: Any) -> dict[str, Any]:
    """The baselines' training as a job: same network, data, optimizer; no validation, no checkpoint."""
    return {
        "name": f"benchmark-{strategy.lower()}",
        "model": {"name": "cnn"},
        "dataset": {"name": "mnist", "path": str(data_folder()), "batch_size": batch_size},
        "training": {"optimizer": {"name": "adam", "learning_rate": 0.001}, "validation": False, **training},
        "strategy": {"name": strategy},
        "cluster": {"workers": workers, **({"ps": ps} if ps else {})},
        "checkpoint": False,
    }


def rate(reached: Sequence[tuple[float, int]], batch_size: int) -> float:
    """Examples per second between the first and the last of some (time, step)."""
    (began, first), (ended, last) = reached[0], reached[-1]
    return (last - first) * batch_size / (ended - began)


class TrainingRun(Processes):
    """A `distrain run` as a person would type it, from the start of its process. `with` ends it. `env`: set for it.

    Left early, it is ended as by Ctrl-C, and must leave nothing behind.
    """

    def __init__(self, job: Mapping[str, Any], env: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="distrain-benchmark-")
        self._runs = Path(self._folder.name) / "runs"
        job_file = Path(self._folder.name) / "job.yaml"
        job_file.write_text(json.dumps(job))
        command = (sys.executable, "-m", "distrain", "run", str(job_file), "--json", "--runs-dir", str(self._runs))
        self.began = time.time()
        self.launcher = self.start(command, env, stdout=subprocess.DEVNULL)

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its events.jsonl as they are written, to the end of the run.

        Raises:
            RuntimeError: the run did not succeed.
        """
        held, read = "", 0
        running = True
        while running:
            running = self.launcher.poll() is None
            for path in self._runs.glob("*/events.jsonl"):
                with path.open() as file:
                    file.seek(read)
                    held += file.read()
                    read = file.tell()
            *lines, held = held.split("\n")
            yield from map(json.loads, lines)
            time.sleep(POLL_S)
        if self.launcher.returncode:
            raise RuntimeError(f"the run ended with {self.launcher.returncode}:\n{self.error_tail()}")

    def steady_examples_per_s(self, batch_size: int) -> Measured:
        """Runs to its end. The rate from the end of the first epoch to that of the last, and the model size."""
        chief, steps_per_epoch, parameters = "", 0, 0
        reached: list[tuple[float, int]] = []
        for event in self.events():
            if event["kind"] == "started":
                chief, steps_per_epoch = event["task"], event["steps_per_epoch"]
            elif event["kind"] == "ready":
                parameters = event["parameters"]
            elif event["kind"] == "progress" and event["task"] == chief and event["step"] >= steps_per_epoch:
                reached.append((event["time"], event["step"]))
        return {"examples/s": rate(reached, batch_size), "parameters": parameters}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGINT)
            self.launcher.wait(END_TIMEOUT_S)
        super().__exit__(kind, error, at)
        self._folder.cleanup()
