"""The sweep itself: real runs, round by round, and what they came to, on the disk after each of them.

What to run is `plan`'s, what a run's events say `measure`'s, what the figures mean `result`'s.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import distrain
from distrain.errors import EXIT_OK, EXIT_SIGINT, EXIT_SIGTERM, EXIT_TASK_FAILED, DistrainError, UsageError
from distrain.launcher.bench.measure import Measurement, TooShort, measure
from distrain.launcher.bench.plan import Contender, warm_up_steps
from distrain.launcher.bench.result import Row, recommendation, to_json
from distrain.launcher.events import Event
from distrain.launcher.run import RunResult, run_job
from distrain.launcher.runs.history import Events
from distrain.launcher.runs.rundir import FORMAT, RunDir, json_text, write_whole
from distrain.launcher.sinks.words import failure_sentence

BENCH_DIR = Path("bench")
_STOPPED = (EXIT_SIGINT, EXIT_SIGTERM)


@dataclass(frozen=True)
class Turn:
    """One run of a sweep that has ended. `measured` None: it gave no figures, and `row.failure` says why."""

    round: int
    row: Row
    measured: Measurement | None


@dataclass
class Sweep:
    """`repeats` runs of each contender. Every other round goes the other way, so that none is always first.

    `folder` is made, and holds `bench.json` and the runs, in `runs`.
    """

    contenders: Sequence[Contender]
    steps: int
    repeats: int
    folder: Path
    job_file: Path
    exit_code: int = EXIT_OK

    def __post_init__(self) -> None:
        self.rows = [Row(contender) for contender in self.contenders]
        self._began = time.time()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            used = any(self.folder.iterdir())
        except OSError as error:
            raise UsageError(
                f"cannot make {self.folder}: {error.strerror}; choose another folder with --out"
            ) from error
        if used:
            raise UsageError(f"{self.folder} is not empty, and a benchmark has a folder of its own; choose another")
        # It is no code, to be kept with the user's or sent to hosts.
        write_whole(self.folder / ".gitignore", "*\n")

    def run(self) -> Iterator[Turn]:
        """Each run as it has ended. One who fails is not run again; being stopped ends them all."""
        # As a run does itself: Ctrl-C is heard although who started us, such as a shell in the background, ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._write()
        for number in range(1, self.repeats + 1):
            for row in self.rows if number % 2 else reversed(self.rows):
                if row.failure is not None:
                    continue
                try:
                    turn = self._turn(number, row)
                except KeyboardInterrupt:
                    self.exit_code = EXIT_SIGINT
                    turn = None
                self._write()
                if turn is None:
                    return
                yield turn

    def _turn(self, number: int, row: Row) -> Turn | None:
        """None: the run was stopped."""
        place = self.rows.index(row) + 1
        job = replace(row.contender.job, name=f"combination-{place}-round-{number}")
        try:
            result = run_job(job, job_file=self.job_file, runs_dir=self.folder / "runs", unseen=_nowhere)
        except DistrainError as error:
            return self._failed(number, row, str(error))
        row.runs.append(f"runs/{result.run_dir.name}")
        if result.exit_code in _STOPPED:
            self.exit_code = result.exit_code
            return None
        if result.exit_code != EXIT_OK:
            return self._failed(number, row, _why(result))
        try:
            measured = measure(_events(RunDir(result.run_dir)), warm_up_steps(self.steps))
        except TooShort:
            return self._failed(
                number, row, f"{self.steps} steps are over too soon to be measured; give more with --steps"
            )
        row.measured[number] = measured
        return Turn(number, row, measured)

    def _failed(self, number: int, row: Row, why: str) -> Turn:
        row.failure = why
        self.exit_code = EXIT_TASK_FAILED
        return Turn(number, row, None)

    def to_json(self) -> dict[str, Any]:
        """The contents of `bench.json`."""
        return {
            "format": FORMAT,
            "bench": str(self.folder),
            "job": str(self.job_file),
            "time": self._began,
            "exit_code": self.exit_code,
            "steps": self.steps,
            "warm_up_steps": warm_up_steps(self.steps),
            "repeats": self.repeats,
            "cores": len(os.sched_getaffinity(0)),
            "versions": {"distrain": distrain.__version__, "python": platform.python_version()},
            "combinations": to_json(self.rows),
            "recommendation": list(recommendation(self.rows)),
        }

    def _write(self) -> None:
        write_whole(self.folder / "bench.json", json_text(self.to_json(), indent=2) + "\n")


def new_folder(name: str) -> Path:
    """Where the sweep of a job of that name goes if nothing else is said."""
    return BENCH_DIR / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _events(rundir: RunDir) -> Iterator[Event]:
    events = Events(rundir)
    try:
        while read := events.read():
            yield from read
    finally:
        events.close()


def _why(result: RunResult) -> str:
    first = result.summary.get("first_failure")
    return failure_sentence(first) if first else f"the run ended with {result.exit_code}"


def _nowhere(_rundir: RunDir) -> None:
    """The sweep has a table of its own to show."""
