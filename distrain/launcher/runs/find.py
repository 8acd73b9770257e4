"""Which run is meant, and what can be told of each without reading all that it has recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.errors import UsageError
from distrain.job.file.kinds import printable
from distrain.launcher.events import Event, now
from distrain.launcher.runs.history import last_session_start, newest_events, read_summary
from distrain.launcher.runs.lock import Launcher, launcher_of
from distrain.launcher.runs.rundir import RunDir

LAST = "last"
_MOST_NAMED = 5


@dataclass(frozen=True)
class Brief:
    """A run in one line. `state`: running, succeeded, failed, stopped, or lost: its launcher is gone, and has left no
    word of how it ended. `began` (Unix seconds) and `lasted_s` are of the last time on that it was taken up; `epochs`
    and `steps` are None while nobody has said how many there will be.
    """

    rundir: RunDir
    state: str
    launcher: Launcher | None
    strategy: str
    attempt: int
    began: float
    lasted_s: float
    epoch: int | None
    epochs: int | None
    step: int | None
    steps: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.rundir.name,
            "run_dir": str(self.rundir.path),
            "state": self.state,
            "pid": self.launcher.pid if self.launcher else None,
            "launched_on": self.launcher.machine if self.launcher else None,
            "strategy": self.strategy,
            "attempt": self.attempt,
            "began": self.began,
            "lasted_s": round(self.lasted_s, 3),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "steps": self.steps,
        }


def find(run: str, runs_dir: Path) -> RunDir:
    """The run that is meant by a path, by a name in `runs_dir`, by the beginning of one, or by `last`.

    Raises:
        UsageError: none is, or more than one.
    """
    if os.sep in run or run in (os.curdir, os.pardir):
        return RunDir.reopen(Path(run))
    runs = newest_first(runs_dir)
    if run == LAST:
        if not runs:
            raise UsageError(f"there are no runs in {runs_dir}; name the place of others with --runs-dir")
        return runs[0]
    matching = [rundir for rundir in runs if rundir.name == run] or [r for r in runs if run and r.name.startswith(run)]
    if len(matching) == 1:
        return matching[0]
    if not matching and (Path(run) / "job.yaml").is_file():
        return RunDir.reopen(Path(run))
    if matching:
        names = ", ".join(rundir.name for rundir in matching[:_MOST_NAMED])
        more = f" and {len(matching) - _MOST_NAMED} more" if len(matching) > _MOST_NAMED else ""
        raise UsageError(f"{printable(run)} may be {names}{more}; type more of the name")
    raise UsageError(
        f"there is no run {printable(run)} in {runs_dir}; see `distrain list`, or name the place with --runs-dir"
    )


def newest_first(runs_dir: Path) -> list[RunDir]:
    """The runs in a folder, the one that was taken up last before the others."""
    try:
        entries = [RunDir(Path(os.path.abspath(entry.path))) for entry in os.scandir(runs_dir) if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{runs_dir} cannot be read: {error.strerror}; name another with --runs-dir") from error
    dated = [(at, rundir.name, rundir) for rundir in entries if (at := _taken_up(rundir)) is not None]
    return [rundir for _, _, rundir in sorted(dated, key=lambda each: each[:2], reverse=True)]


def brief(rundir: RunDir) -> Brief:
    """What there is to say of a run."""
    launcher = launcher_of(rundir)
    summary = None if launcher else read_summary(rundir)
    # What stands in the files is read after what it depends on, so that a run that is just ending is not taken as lost.
    start, newest = last_session_start(rundir), newest_events(rundir)
    progress = next((event for event in reversed(newest) if event.kind == "progress"), None)
    began = start.time if start else _taken_up(rundir) or 0.0
    ended = now() if launcher else newest[-1].time if newest else began
    return Brief(
        rundir,
        state="running" if launcher else str(summary["state"]) if summary else "lost",
        launcher=launcher,
        strategy=str(start.data.get("strategy", "")) if start else "",
        attempt=newest[-1].attempt if newest else 0,
        began=began,
        lasted_s=max(0.0, ended - began),
        **_how_far(start, progress, newest),
    )


def _how_far(start: Event | None, progress: Event | None, newest: list[Event]) -> dict[str, int | None]:
    data = progress.data if progress else {}
    epochs = (start.data.get("epochs") if start else None) or data.get("epochs")
    started = next((event.data for event in reversed(newest) if event.kind == "started"), {})
    steps = data.get("steps") or (epochs * started["steps_per_epoch"] if epochs and started else None)
    return {"epoch": data.get("epoch"), "epochs": epochs, "step": data.get("step"), "steps": steps}


def _taken_up(rundir: RunDir) -> float | None:
    """When a launcher took it up last. None: it is no run directory."""
    for path in _marks(rundir):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return None


def _marks(rundir: RunDir) -> Iterator[Path]:
    if rundir.job_file.is_file():
        yield rundir.lock_file  # the launcher writes its number into it
        yield rundir.job_file
