"""`distrain chaos`: a run that is injured on purpose, and an account of how it came through."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distrain.cli.options import PATH, RUNS_DIR, SET, shown_options

if TYPE_CHECKING:
    from distrain.job.spec import JobSpec
    from distrain.launcher.chaos import Case, Wish

_UNITS_S = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")


def _seconds_of(text: str) -> float | None:
    """The seconds that `20s`, `5m`, `200ms`, `1.5h` or a number is; None: none, or 0 of them."""
    found = _DURATION.fullmatch(text.strip())
    return (float(found[1]) * _UNITS_S[found[2]] or None) if found else None


def _duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    seconds = None if text is None else _seconds_of(text)
    if text is not None and seconds is None:
        raise click.BadParameter(f"{text!r} is no duration; write for example 20s, 5m or 200ms")
    return seconds


def _wishing(kind: str, metavar: str, help: str) -> Callable[[Any], Any]:
    return click.option(f"--{kind}", kind, multiple=True, metavar=metavar, help=help)


def _timing(name: str, help: str, default: str | None = None) -> Callable[[Any], Any]:
    return click.option(
        f"--{name}",
        f"{name}_s",
        callback=_duration,
        metavar="TIME",
        default=default,
        show_default=default is not None,
        help=help,
    )


@click.command()
@click.argument("job", type=PATH)
@_wishing("kill", "WHOM", "Kill a task: `worker`, `ps` or `chief`, one task such as `worker:1`, or `any`.")
@_wishing("stop", "WHOM", "Freeze a task, likewise.")
@_wishing("cut", "HOST", "Cut the connection to a host, or to `any`.")
@_wishing("fill", "HOST", "Fill the disk of a host's run folder.")
@_wishing("slow", "HOST=DELAY", "Delay what a host sends, as in any=200ms. Needs root there.")
@_timing("every", "Injure it so often.", default="20s")
@_timing("for", "Only for so long; then the run may end undisturbed.")
@click.option("--times", type=click.IntRange(min=1), help="Only so many times.")
@_timing("lasting", "How long all but a kill lasts.", default="60s")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed chooses alike.")
@click.option("--while-recovering", is_flag=True, help="Do not wait until the run has recovered.")
@SET
@RUNS_DIR
@click.option("--name", help="The run's name, in place of the job's.")
@shown_options
def chaos(
    job: Path,
    sets: tuple[str, ...],
    every_s: float,
    for_s: float | None,
    times: int | None,
    lasting_s: float,
    seed: int,
    while_recovering: bool,
    runs_dir: Path,
    name: str | None,
    dry_run: bool,
    as_json: bool,
    plain: bool,
    **asked: tuple[str, ...],
) -> int:
    """Run the file JOB as `run` does, and injure it, to see whether and how fast it recovers.

    \b
    distrain chaos JOB.yaml --kill worker --every 20s --for 5m
    distrain chaos JOB.yaml --kill any --stop worker:1 --set restart.max=100

    Every option that names an injury may be given several times; one of them all is chosen each time.
    """
    from distrain.cli import show
    from distrain.errors import EXIT_OK
    from distrain.job.cluster import LOCAL, hosts_of
    from distrain.job.load import load_job
    from distrain.launcher.chaos import Chaos, Plan, verdict
    from distrain.launcher.run import dry_run_plan, run_job

    spec = load_job(job, sets, name=name)
    plan = Plan(wishes(spec, asked), every_s, for_s, times, lasting_s, seed, while_recovering)
    if spec.restart is None:
        click.echo(f"distrain: {job} has restart: false, so that the first failure ends the run", err=True)
    far = [host.name for host in hosts_of(spec) if host != LOCAL]
    injuries = Chaos(plan, far=far, speaks=spec.program is None)
    if dry_run:
        show.plan(dry_run_plan(spec, job_file=job), as_json=as_json)
        return EXIT_OK
    result = run_job(
        spec, job_file=job, runs_dir=runs_dir, plain=plain, to_stderr=as_json, then_exit=True, chaos=injuries
    )
    if not result.shown:
        os._exit(result.exit_code)  # a stopped terminal would hold the interpreter's own flush of stdout for ever
    sentence = verdict(injuries.cases, result.summary)
    click.echo(account(injuries.cases, sentence, began=injuries.began), err=as_json)
    if as_json:
        told = {"injuries": [case.to_json() for case in injuries.cases], "verdict": sentence}
        click.echo(json.dumps({**result.summary, **told}, indent=2))
    return result.exit_code


def wishes(job: JobSpec, asked: Mapping[str, Sequence[str]]) -> tuple[Wish, ...]:
    """What the options ask for, by the kind of injury.

    Raises:
        UsageError: there is no such task or host in the job, or the place does not allow it.
    """
    from distrain.errors import UsageError
    from distrain.job.cluster import LOCAL, hosts_of, tasks_of
    from distrain.launcher.chaos import ANY, Kind, Wish

    tasks, hosts = [str(task) for task in tasks_of(job)], [host.name for host in hosts_of(job)]
    found = []
    for kind in Kind:
        for text in asked[kind.value]:
            whom, delay_ms = _delayed(text) if kind is Kind.SLOW else (text, 0.0)
            if kind.of_tasks:
                roles = dict.fromkeys(task.partition(":")[0] for task in tasks)
                _check(kind.value, whom, (ANY, *roles, *tasks))
            elif kind is Kind.CUT and (whom == LOCAL.name or set(hosts) == {LOCAL.name}):
                raise UsageError(
                    f"--cut {whom}: no connection leads to this machine that could be cut; "
                    "give the job hosts, or use --kill, --stop or --fill"
                )
            else:
                _check(kind.value, whom, (ANY, *hosts))
            found.append(Wish(kind, whom, delay_ms))
    if not found:
        raise UsageError("nothing says how to injure the run; give --kill worker, for example")
    return tuple(found)


def _delayed(text: str) -> tuple[str, float]:
    """Host and milliseconds of `HOST=DELAY`."""
    from distrain.errors import UsageError

    host, _, delay = text.partition("=")
    seconds = _seconds_of(delay)
    if seconds is None:
        raise UsageError(f"--slow {text}: write the host and the delay, as in any=200ms")
    return host, seconds * 1000


def _check(kind: str, whom: str, known: Iterable[str]) -> None:
    from distrain.errors import UsageError
    from distrain.job.file.kinds import listed, printable, suggestion

    if whom not in known:
        advice = suggestion(whom, known, f"choose one of {listed(known)}")
        raise UsageError(f"--{kind} {printable(whom)}: the job has nothing of that name; {advice}")


def account(cases: Sequence[Case], sentence: str, *, began: float) -> str:
    """A table of the injuries of a run that began then (Unix seconds), and the verdict."""
    head = ("after", "injury", "detected", "training again", "steps lost", "noticed")
    rows = [
        (
            f"{case.time - began:.0f} s",
            str(case.injury),
            _seconds(case.detected_s),
            "not done" if case.refused else _seconds(case.resumed_s) if case.is_over else "never",
            str(case.steps_lost) if case.resumed_s is not None else "-",
            (case.noticed or "nothing").split("\n")[0],
        )
        for case in cases
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]))
        for row in (head, *rows)
    ]
    return "\n".join((*(lines if rows else ()), sentence))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
