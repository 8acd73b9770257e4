"""What `run` and `launch` do once the job is known: show the plan, or run it, here or without this terminal."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from distrain.cli import show
from distrain.errors import EXIT_OK, EXIT_TASK_FAILED
from distrain.job.spec import JobSpec
from distrain.launcher.runs.find import find
from distrain.launcher.runs.resume import Resumption, begin, nothing_left
from distrain.launcher.runs.rundir import RunDir


@dataclass(frozen=True)
class Manner:
    """The options of `run_options` that say how a run is shown and where it is recorded."""

    runs_dir: Path
    dry_run: bool
    as_json: bool
    plain: bool
    detach: bool


def origin_of(resume: str | None, how: Manner) -> RunDir | None:
    """The run that `--resume` means.

    Raises:
        UsageError: it means none, or more than one.
    """
    return find(resume, how.runs_dir) if resume is not None else None


def resumption(origin: RunDir | None, name: str | None) -> Resumption | None:
    return None if origin is None else Resumption(origin, anew=name is not None)


def start(job: JobSpec, how: Manner, *, job_file: Path | None, resume: Resumption | None) -> int:
    """Runs the job, or shows its plan; returns the exit code.

    Raises:
        DistrainError: it cannot be started. What happens later is in the summary and the exit code.
    """
    from distrain.launcher.run import dry_run_plan, run_job

    if resume is not None and (summary := nothing_left(resume.origin, job)) is not None:
        remedy = "" if job.program is not None else "; to train on, raise training.epochs"
        click.echo(f"{resume.origin.name} has succeeded, and there is nothing left to do{remedy}", err=True)
        if how.as_json:
            show.summary(summary)
        return EXIT_OK
    if how.dry_run:
        if resume is not None:
            begin(resume, job)
        show.plan(dry_run_plan(job, job_file=job_file), as_json=how.as_json)
        return EXIT_OK
    if how.detach:
        return _detached(job, how, job_file=job_file, resume=resume)
    result = run_job(
        job,
        job_file=job_file,
        runs_dir=how.runs_dir,
        plain=how.plain,
        to_stderr=how.as_json,
        then_exit=True,
        resume=resume,
    )
    if how.as_json:
        show.summary(result.summary)
    if not result.shown:
        # A stopped terminal would hold the interpreter's own flush of stdout for ever.
        os._exit(result.exit_code)
    return result.exit_code


def _detached(job: JobSpec, how: Manner, *, job_file: Path | None, resume: Resumption | None) -> int:
    """Runs the job in a process of its own, and looks on until its tasks start or it has ended before."""
    from distrain.launcher.events import now
    from distrain.launcher.run import run_job
    from distrain.launcher.runs.detach import Defect, detach
    from distrain.launcher.runs.find import brief
    from distrain.launcher.runs.follow import follow
    from distrain.launcher.runs.history import read_summary

    began = now()
    try:
        rundir = detach(
            lambda is_there: (
                run_job(job, job_file=job_file, runs_dir=how.runs_dir, resume=resume, unseen=is_there).exit_code
            )
        )
    except Defect as defect:
        click.echo(str(defect), err=True, nl=False)
        return EXIT_TASK_FAILED
    try:
        sight = follow(
            rundir,
            sys.stderr if how.as_json else sys.stdout,
            plain=True,
            since=began,
            until=lambda event: event.kind == "attempt_started",
        )
    except KeyboardInterrupt:
        show.goes_on(rundir, err=how.as_json)
        raise
    if sight.lost:
        show.lost(rundir)
    elif sight.exit_code is None:
        show.goes_on(rundir, err=how.as_json)
    if how.as_json:
        show.summary(brief(rundir).to_json() if sight.exit_code is None else read_summary(rundir) or {})
    return sight.exit_code or EXIT_OK
