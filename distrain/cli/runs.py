"""The commands for runs that are there: `attach`, `logs`, `status`, `stop`, `list`. Imports click alone.

They serve detached, foreground and finished runs alike, and read files; only `stop` says something to a launcher.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from distrain.cli.options import RUNS_DIR

_RUN = click.argument("run")
_EVERY_S = 0.1
_PATIENCE_S = 10.0


@click.command()
@_RUN
@RUNS_DIR
@click.option("--plain", is_flag=True, help="Print lines in place of the live view.")
def attach(run: str, runs_dir: Path, plain: bool) -> int:
    """Look at RUN until it ends, and end as it does. Ctrl-C leaves it going.

    RUN is a run directory's path, its name, the beginning of one, or `last`; so it is for the commands below.
    """
    from distrain.cli import show
    from distrain.errors import EXIT_TASK_FAILED
    from distrain.launcher.runs.find import find
    from distrain.launcher.runs.follow import follow

    rundir = find(run, runs_dir)
    try:
        sight = follow(rundir, sys.stdout, plain=plain)
    except KeyboardInterrupt:
        show.goes_on(rundir)
        raise
    if sight.lost:
        show.lost(rundir)
    code = EXIT_TASK_FAILED if sight.exit_code is None else sight.exit_code
    if not sight.shown:
        # A stopped terminal would hold the interpreter's own flush of stdout for ever.
        os._exit(code)
    return code


@click.command()
@_RUN
@RUNS_DIR
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--task", metavar="TASK", help="What this task alone has printed, as in worker:1.")
def logs(run: str, runs_dir: Path, follow: bool, task: str | None) -> int:
    """Print what the tasks of RUN have printed: all of them, line by line, or one of them, to the byte."""
    import time

    from distrain.errors import EXIT_OK, UsageError
    from distrain.launcher.runs.find import find
    from distrain.launcher.runs.history import Tail
    from distrain.launcher.runs.lock import launcher_of

    rundir = find(run, runs_dir)
    known = rundir.task_logs()
    if task is not None and task not in known and not (follow and launcher_of(rundir)):
        there = f"there are those of {', '.join(known)}" if known else "no task has printed anything"
        raise UsageError(f"{rundir.name} has no log of {task!r}; {there}")
    tail = Tail(rundir.merged_log if task is None else rundir.log_file(task))
    alive = follow
    while True:
        alive = alive and launcher_of(rundir) is not None
        while data := tail.read():
            click.echo(data, nl=False)
        if not alive:
            return EXIT_OK
        time.sleep(_EVERY_S)


@click.command()
@_RUN
@RUNS_DIR
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(run: str, runs_dir: Path, as_json: bool) -> int:
    """Say how far RUN is, or how it has ended."""
    from distrain.cli import show
    from distrain.errors import EXIT_OK
    from distrain.launcher.runs.find import brief, find
    from distrain.launcher.runs.follow import look_back

    rundir = find(run, runs_dir)
    now = brief(rundir)
    view, events = look_back(rundir)
    events.close()
    show.status(now, view, as_json=as_json)
    return EXIT_OK


@click.command()
@_RUN
@RUNS_DIR
@click.option("--now", "at_once", is_flag=True, help="Ask twice: do not wait for a checkpoint, nor for the tasks.")
def stop(run: str, runs_dir: Path, at_once: bool) -> int:
    """End RUN as Ctrl-C at its own terminal would, and wait until it has ended."""
    import signal
    import time

    from distrain.errors import EXIT_OK
    from distrain.launcher.runs.find import brief, find
    from distrain.launcher.runs.follow import look_back
    from distrain.launcher.runs.lock import launcher_of, send_signal

    rundir = find(run, runs_dir)
    if not send_signal(rundir, signal.SIGTERM):
        click.echo(f"{rundir.name} is not going: {brief(rundir).state}", err=True)
        return EXIT_OK
    view, events = look_back(rundir)
    since, told = time.monotonic(), False
    while launcher_of(rundir) is not None:
        for event in events.read():
            view = view.after(event)
        waited_s = time.monotonic() - since
        # Two signals at once would count as one: the second waits until the first has been heard.
        heard = view.stopping is not None and view.summary is None
        if at_once and (heard or waited_s >= _PATIENCE_S):
            at_once = not send_signal(rundir, signal.SIGTERM)
        if waited_s >= _PATIENCE_S and not told:
            told = True
            click.echo(f"{rundir.name} is still ending; `distrain stop --now {rundir.handle}` is quicker", err=True)
        time.sleep(_EVERY_S)
    events.close()
    click.echo(f"{rundir.name}: {brief(rundir).state}")
    return EXIT_OK


@click.command(name="list")
@RUNS_DIR
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_runs(runs_dir: Path, as_json: bool) -> int:
    """Show all runs, the newest first."""
    from distrain.cli import show
    from distrain.errors import EXIT_OK
    from distrain.launcher.runs.find import brief, newest_first

    show.runs([brief(rundir) for rundir in newest_first(runs_dir)], as_json=as_json)
    return EXIT_OK
