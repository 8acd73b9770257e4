"""What `run` and `launch` do once the job is known: settle its script, then show the plan or run it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from distrain.cli import show
from distrain.errors import UsageError
from distrain.job.cluster import hosts_of
from distrain.job.file.kinds import printable
from distrain.job.file.source import nearest_file
from distrain.job.spec import JobSpec


def start(job: JobSpec, *, job_file: Path | None, runs_dir: Path, dry_run: bool, as_json: bool, plain: bool) -> int:
    """Runs the job, or shows its plan; returns the exit code.

    Raises:
        DistrainError: it cannot be started. What happens later is in the summary and the exit code.
    """
    job = settled(job)
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


def settled(job: JobSpec) -> JobSpec:
    """`job` with a script that is there: for other hosts as seen from the current folder, of which they get a copy.

    Raises:
        UsageError: there is no such script, or the hosts would not get it.
    """
    if job.program is None or not job.program.is_script:
        return job
    script, folder = job.program.argv[0], job.code_folder
    away = any(host.transport != "local" for host in hosts_of(job))
    if not away or folder is not None:
        _check(script)
    if not away or folder is None:
        return job  # without a copy, the hosts have the script at the same path
    parent, name = os.path.split(script)
    root, full = os.path.realpath(folder), os.path.join(os.path.realpath(parent), name)
    if os.path.commonpath((root, full)) != root:
        raise UsageError(
            f"{printable(script)} is outside {printable(root)}, the folder that the hosts get; "
            "change into the script's folder, or set code to a folder that holds both it and the current one"
        )
    path = os.path.relpath(full, os.path.realpath("."))
    argv = (f"./{path}" if path.startswith("-") else path, *job.program.argv[1:])
    return replace(job, program=replace(job.program, argv=argv))


def _check(script: str) -> None:
    path, shown = Path(script), printable(script)
    if path.is_dir():
        raise UsageError(f"{shown} is a folder, and a script is a file; name a file in it")
    if not path.exists():
        raise UsageError(f"there is no script {shown}; {nearest_file(path, ('.py',))}")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{shown} cannot be read; check its permissions")
