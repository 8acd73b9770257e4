"""What people type. Imports click alone; a command's body imports the rest when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distrain.cli.bench import bench
from distrain.cli.chaos import chaos
from distrain.cli.launch import launch
from distrain.cli.options import PATH, SET, host_options, missing, run_options
from distrain.cli.runs import attach, list_runs, logs, status, stop


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


for command in (launch, bench, chaos, attach, logs, status, stop, list_runs):
    distrain.add_command(command)


@distrain.command()
@click.argument("job", type=PATH, required=False)
@SET
@run_options
def run(job: Path | None, sets: tuple[str, ...], name: str | None, resume: str | None, **manner: Any) -> int:
    """Train as the file JOB says. With --resume it may be left out: then it is what the run had."""
    from distrain.cli.start import Manner, origin_of, resumption, start
    from distrain.job.load import load_job
    from distrain.launcher.runs.resume import recorded

    how = Manner(**manner)
    origin = origin_of(resume, how)
    if job is not None:
        spec = load_job(job, sets, name=name)
    elif origin is not None:
        spec, job = recorded(origin, sets, name)
    else:
        raise missing("'JOB'")
    return start(spec, how, job_file=job, resume=resumption(origin, name))


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
