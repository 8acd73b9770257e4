"""What `run` and `launch` do once the job is known: show the plan, or run it."""

from __future__ import annotations

import os
from pathlib import Path

from distrain.cli import show
from distrain.job.spec import JobSpec


def start(job: JobSpec, *, job_file: Path | None, runs_dir: Path, dry_run: bool, as_json: bool, plain: bool) -> int:
    """Runs the job, or shows its plan; returns the exit code.

    Raises:
        DistrainError: it cannot be started. What happens later is in the summary and the exit code.
    """
    if dry_run:
        from distrain.launcher.run import dry_run_plan

        show.plan(dry_run_plan(job, job_file=job_file), as_json=as_json)
        return 0
    from distrain.launcher.run import run_job

    result = run_job(job, job_file=job_file, runs_dir=runs_dir, plain=plain, to_stderr=as_json, then_exit=True)
    if as_json:
        show.summary(result)
    if not result.shown:
        # A stopped terminal would hold the interpreter's own flush of stdout for ever.
        os._exit(result.exit_code)
    return result.exit_code
