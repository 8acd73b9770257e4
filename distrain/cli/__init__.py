"""What people type. Imports click alone; a command's body imports the rest when it is called."""

from __future__ import annotations

import os
from pathlib import Path

import click

# Whether a path can be used is told by those that use it, together with what to do about it.
PATH = click.Path(path_type=Path, readable=False)
SET = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the job, as in --set training.epochs=1. May be repeated.",
)


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from distrain.cli.version import version_line

    click.echo(version_line())
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions."
)
def distrain() -> None:
    """Train TensorFlow and Keras models on many devices and machines, from one job file."""


@distrain.command()
@click.argument("job", type=PATH)
@SET
@click.option(
    "--runs-dir",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    help="Where run directories are made.",
)
@click.option("--name", help="The run's name, in place of the job's.")
@click.option("--dry-run", is_flag=True, help="Show every task that would start, and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary (or the plan) as one JSON object on stdout.")
@click.option("--plain", is_flag=True, help="Print lines in place of the live view.")
def run(
    job: Path, sets: tuple[str, ...], runs_dir: Path, name: str | None, dry_run: bool, as_json: bool, plain: bool
) -> int:
    """Train as the file JOB says."""
    from distrain.cli import show
    from distrain.job.load import load_job

    spec = load_job(job, sets, name=name)
    if dry_run:
        from distrain.launcher.run import dry_run_plan

        show.plan(dry_run_plan(spec, job_file=job), as_json=as_json)
        return 0
    from distrain.launcher.run import run_job

    result = run_job(spec, job_file=job, runs_dir=runs_dir, plain=plain, to_stderr=as_json, then_exit=True)
    if as_json:
        show.summary(result)
    if not result.shown:
        # A stopped terminal would hold the interpreter's own flush of stdout for ever.
        os._exit(result.exit_code)
    return result.exit_code


@distrain.command()
@click.argument("jobs", type=PATH, nargs=-1, required=True, metavar="JOB...")
@SET
def validate(jobs: tuple[Path, ...], sets: tuple[str, ...]) -> int:
    """Say what is wrong with each JOB, all of it at once, and start nothing."""
    from distrain.errors import EXIT_OK, JobError
    from distrain.job.load import load_job

    code = EXIT_OK
    for job in jobs:
        try:
            load_job(job, sets)
        except JobError as error:
            click.echo(str(error), err=True)
            code = error.exit_code
        else:
            click.echo(f"{job}: ok")
    return code
