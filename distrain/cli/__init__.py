"""What people type. Imports click alone; a command's body imports the rest when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distrain.cli.launch import launch
from distrain.cli.options import PATH, SET, host_options, run_options


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
    """Train TensorFlow and Keras models on many devices and machines, from one job file, or with a script of yours."""


distrain.add_command(launch)


@distrain.command()
@click.argument("job", type=PATH)
@SET
@run_options
def run(
    job: Path, sets: tuple[str, ...], runs_dir: Path, name: str | None, dry_run: bool, as_json: bool, plain: bool
) -> int:
    """Train as the file JOB says."""
    from distrain.cli.start import start
    from distrain.job.load import load_job

    spec = load_job(job, sets, name=name)
    return start(spec, job_file=job, runs_dir=runs_dir, dry_run=dry_run, as_json=as_json, plain=plain)


@distrain.command()
@click.argument("job", type=PATH, required=False)
@host_options
@SET
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object on stdout.")
def doctor(job: Path | None, sets: tuple[str, ...], as_json: bool, **hosts: Any) -> int:
    """Say what would keep hosts, those of JOB among them, from training."""
    from distrain.cli.doctor import examine
    from distrain.cli.hosts import Asked
    from distrain.job.cluster import hosts_of
    from distrain.job.load import load_job, program_job

    asked = Asked(**hosts)
    # Without a job a program stands in for it, which any cluster suits.
    spec = program_job(["any"], sets, given=asked.given()) if job is None else load_job(job, sets, given=asked.given())
    return examine(spec if job is not None else None, hosts_of(asked.applied(spec)), as_json=as_json)


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
