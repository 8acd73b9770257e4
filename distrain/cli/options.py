"""The options that several commands take. Imports click alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., int]

# Whether a path can be used is told by those that use it, together with what to do about it.
PATH = click.Path(path_type=Path, readable=False)

SET = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the job, as in --set training.epochs=1. May be repeated.",
)

RUNS_DIR = click.option(
    "--runs-dir", type=PATH, default=Path("runs"), show_default=True, help="Where run directories are."
)

_SHOWN: tuple[Callable[[Any], Any], ...] = (
    click.option("--dry-run", is_flag=True, help="Show every task that would start, and start nothing."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print the summary (or the plan) as one JSON object on stdout."
    ),
    click.option("--plain", is_flag=True, help="Print lines in place of the live view."),
)

_RUN: tuple[Callable[[Any], Any], ...] = (
    RUNS_DIR,
    click.option("--name", help="The run's name, in place of the job's; with --resume: a new run, that begins there."),
    click.option(
        "--resume", metavar="RUN", help="Go on with a run from its newest checkpoint: its path, its name, or `last`."
    ),
    click.option("--detach", is_flag=True, help="Let the run go on without this terminal, once its tasks start."),
    *_SHOWN,
)

_HOSTS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--workers",
        metavar="H",
        help="Workers: hosts, as in host1,me@host2:2 (two workers there), or only how many.",
    ),
    click.option("--ps", metavar="H", help="Parameter servers, likewise."),
    click.option("--chief", metavar="H", help="The host of the chief."),
    click.option("--evaluator", metavar="H", help="Evaluators, likewise."),
    click.option("--data", metavar="H", help="Workers that prepare examples for the others, likewise."),
    click.option(
        "--hostfile", type=PATH, metavar="FILE", help="Hosts, one a line: `host`, `host:2` or `host slots=2`."
    ),
    click.option("--python", metavar="PATH", help="The Python on every host; python3 there, and this one here."),
)


def run_options(command: Command) -> Command:
    """How a run is named, begun, shown and recorded: runs_dir, name, resume, detach, dry_run, as_json, plain."""
    return _with(_RUN, command)


def shown_options(command: Command) -> Command:
    """How a run is shown: dry_run, as_json, plain."""
    return _with(_SHOWN, command)


def host_options(command: Command) -> Command:
    """Which hosts: workers, ps, chief, evaluator, data, hostfile, python, for `hosts.asked` to read."""
    return _with(_HOSTS, command)


def missing(argument: str) -> click.MissingParameter:
    """The error that an argument is not there, of the command that is running now."""
    return click.MissingParameter(ctx=click.get_current_context(), param_hint=argument, param_type="argument")


def _with(options: tuple[Callable[[Any], Any], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
