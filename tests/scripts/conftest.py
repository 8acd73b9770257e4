"""Real launches of the programs in `programs/`, each in a run directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent / "programs"
DEADLINE_S = 120


@dataclass(frozen=True)
class Launched:
    """A launch that has ended. `out` is what was printed for people."""

    code: int
    out: str
    rundir: Path

    def log(self, task: str) -> str:
        return (self.rundir / "logs" / f"{task.replace(':', '-')}.log").read_text(errors="replace")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.rundir / "summary.json").read_text())

    @property
    def events(self) -> list[dict[str, Any]]:
        return _lines(self.rundir / "events.jsonl")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return _lines(self.rundir / "metrics.jsonl")


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launched]:
    """`launch("--workers", 2, "fit_mwms.py", …)`: runs `distrain launch` to its end. Expects it to succeed, unless
    `code` says with what else it exits.
    """

    def run(*arguments: object, code: int = 0) -> Launched:
        runs = tmp_path / f"runs-{len(list(tmp_path.iterdir()))}"
        words = [str(PROGRAMS / word) if (PROGRAMS / str(word)).is_file() else str(word) for word in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "distrain", "launch", "--plain", "--runs-dir", str(runs), *words],
            cwd=tmp_path,
            # One thread a task: there are more tasks than cores here.
            env={**os.environ, "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
            check=False,
        )
        out = done.stdout.decode(errors="replace")
        assert done.returncode == code, out
        (rundir,) = runs.iterdir()
        return Launched(done.returncode, out, rundir)

    return run
