"""What commands print beside the sinks: a plan, a summary, how a run is and all of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distrain.job.plan import Plan
    from distrain.launcher.runs.find import Brief
    from distrain.launcher.runs.rundir import RunDir
    from distrain.launcher.sinks.view import View


def plan(plan: Plan, *, as_json: bool) -> None:
    """Every task with its host, command and environment, as it would start."""
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=2))
        return
    for index, task in enumerate(plan.to_json()["tasks"]):
        if index:
            click.echo()
        click.secho(str(task["task"]), bold=True)
        for key, value in task.items():
            if key == "argv":
                click.echo(f"  command: {shlex.join(value)}")
            elif key == "TF_CONFIG":
                click.echo(f"  TF_CONFIG: {json.dumps(value)}")
            elif key == "env":
                for name, text in value.items():
                    click.echo(f"  env {name}={text}")
            elif key != "task" and value is not None:
                click.echo(f"  {key}: {value}")


def summary(values: Mapping[str, Any]) -> None:
    """One JSON object, as in the files of a run directory."""
    from distrain.launcher.runs.rundir import json_text

    click.echo(json_text(values, indent=2))


def goes_on(rundir: RunDir, *, err: bool = False) -> None:
    """How to get at a run that no terminal belongs to."""
    click.echo(f"{rundir.name} goes on without this terminal:", err=err)
    commands = {"attach": "look at it", "logs -f": "see what its tasks print", "stop": "end it"}
    _columns([[f"distrain {name} {rundir.handle}", use] for name, use in commands.items()], indent=2, err=err)


def lost(rundir: RunDir) -> None:
    """What to do about a run that nobody runs any more."""
    log = f"; {rundir.typed}/launcher.log may tell why" if _has_words(rundir.launcher_log) else ""
    click.echo(
        f"{rundir.name} is lost: its launcher is gone, and all that it had started with it{log}; "
        f"go on with `distrain run --resume {rundir.handle}`",
        err=True,
    )


def _has_words(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def status(now: Brief, view: View, *, as_json: bool) -> None:
    """A run as it is now, or as it has ended."""
    from distrain.launcher.runs.history import read_summary
    from distrain.launcher.sinks.words import duration, ending, progress_line

    over = None if now.launcher else read_summary(now.rundir)
    if as_json:
        tasks = [
            {"task": task.name, "host": task.host, "state": task.state, "step": task.step}
            for task in view.tasks.values()
        ]
        metrics = {"train": view.train, "validation": view.validation}
        summary({"format": 1, **now.to_json(), "metrics": metrics, "tasks": tasks, "summary": over})
        return
    if now.state == "lost":
        lost(now.rundir)
        return
    if over is not None and view.summary is not None:
        click.echo("\n".join(ending(view, now.rundir.typed)))
        return
    facts = [now.state, now.strategy, f"attempt {now.attempt}", duration(now.lasted_s)]
    click.echo(f"{now.rundir.name}  {' · '.join(filter(None, facts))}")
    if view.progress_at is not None:
        click.echo(f"  {progress_line(view, now.began + now.lasted_s)}")
    _columns([[task.name, task.host, task.state, _count(task.step)] for task in view.tasks.values()], indent=2)
    click.echo(f"  {now.rundir.typed}")


def runs(briefs: Sequence[Brief], *, as_json: bool) -> None:
    """A line for each run."""
    from distrain.launcher.events import now
    from distrain.launcher.sinks.words import duration

    if as_json:
        summary({"format": 1, "runs": [each.to_json() for each in briefs]})
        return
    if not briefs:
        click.echo("there are no runs here", err=True)
        return
    rows = [["RUN", "STATE", "STRATEGY", "ATTEMPT", "PROGRESS", "BEGAN", "LASTED"]]
    for each in briefs:
        ago = f"{_roughly(now() - each.began)} ago"
        progress = _progress(each)
        name, attempt = each.rundir.name, str(each.attempt)
        rows.append([name, each.state, each.strategy, attempt, progress, ago, duration(each.lasted_s)])
    _columns(rows)


def _progress(each: Brief) -> str:
    if each.epoch is not None:
        return f"epoch {each.epoch}/{each.epochs}" if each.epochs else f"epoch {each.epoch}"
    return "" if each.step is None else f"step {each.step:,}"


def _roughly(seconds: float) -> str:
    """How long, in one unit: `12 s`, `3 min`, `5 h`, `2 days`."""
    for unit, size_s in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _columns(rows: Sequence[Sequence[str]], *, indent: int = 0, err: bool = False) -> None:
    from distrain.job.file.kinds import printable

    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(" " * indent + "  ".join(cells).rstrip(), err=err)
