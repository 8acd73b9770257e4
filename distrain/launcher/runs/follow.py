"""A run as somebody sees it who has not started it: what is recorded, shown as the launcher's own terminal would.

Reads files only. The run does not know that it is looked at.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from distrain.errors import EXIT_TASK_FAILED
from distrain.launcher.events import Event, now
from distrain.launcher.runs.history import Events, Tail, last_session_start
from distrain.launcher.runs.lock import launcher_of
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks import open_terminal
from distrain.launcher.sinks.terminal import Terminal
from distrain.launcher.sinks.view import View
from distrain.launcher.sinks.words import progress_line

_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Sight:
    """How looking at a run ended. `exit_code`: the run's own, None: it goes on. `lost`: it does not, and nobody can say
    how it ended. `shown` as in `run.RunResult`.
    """

    exit_code: int | None
    lost: bool = False
    shown: bool = True


def look_back(rundir: RunDir) -> tuple[View, Events]:
    """The run as it is now, and what is to come of it."""
    view, events = View(), Events(rundir)
    while new := events.read():
        for event in new:
            view = view.after(event)
    return view, events


def _wait_for_its_beginning(rundir: RunDir) -> None:
    """Of a launcher that has only just taken up a run that had ended, or has only just ended one."""
    before = last_session_start(rundir)
    while launcher_of(rundir) is not None and last_session_start(rundir) == before:
        time.sleep(_LOOK_EVERY_S)


def follow(
    rundir: RunDir,
    stream: TextIO,
    *,
    plain: bool,
    since: float | None = None,
    until: Callable[[Event], bool] = lambda event: False,
) -> Sight:
    """Show the run until it has ended, or until an event that is enough. Ctrl-C ends the showing alone, as ever.

    `since`: of a launcher that has come after this time (Unix seconds), tell all that has happened; else only how far
    the run has come, and what happens from now on.
    """
    view, events = look_back(rundir) if since is None else (View(), Events(rundir, since=since))
    if view.summary is not None and launcher_of(rundir) is not None:
        events.close()
        _wait_for_its_beginning(rundir)
        view, events = look_back(rundir)
    logs = _Logs(rundir)
    terminal = open_terminal(rundir, plain=plain, stream=stream, view=view)
    enough, alive = view.summary is not None, True
    try:
        if view.run and not enough and launcher_of(rundir) is not None:
            terminal.event(Event(now(), "note", view.attempt, data={"message": _where(view)}))
        while alive and not enough:
            # Whoever ends has written all before: so first whether there is somebody, then events, then output.
            alive = launcher_of(rundir) is not None
            news = events.read()
            for event in news:
                view = view.after(event)
                terminal.event(event)
            quiet = not logs.show(terminal) and not news
            enough = view.summary is not None or any(map(until, news))
            alive = alive or not quiet
            if quiet and alive:
                time.sleep(_LOOK_EVERY_S)
        while logs.show(terminal):
            pass
    finally:
        events.close()
        logs.close()
        shown = terminal.close()
    if view.summary is not None:
        return Sight(int(view.summary.get("exit_code", EXIT_TASK_FAILED)), shown=shown)
    return Sight(None, shown=shown) if enough else Sight(EXIT_TASK_FAILED, lost=True, shown=shown)


def _where(view: View) -> str:
    """A sentence for one who comes in the middle."""
    attempt = f", attempt {view.attempt}" if view.attempt > 1 else ""
    states = Counter(task.state for task in view.tasks.values())
    tasks = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{view.run} is going{attempt}: {progress_line(view, None) if view.progress_at is not None else tasks}"


class _Logs:
    """What the tasks print from now on."""

    def __init__(self, rundir: RunDir) -> None:
        self._rundir = rundir
        self._tails = {task: Tail(path, path.stat().st_size) for task, path in rundir.task_logs().items()}

    def show(self, terminal: Terminal) -> bool:
        """Pass on a piece of each log. Whether there was any."""
        found = False
        for task, path in self._rundir.task_logs().items():
            if data := self._tails.setdefault(task, Tail(path)).read():
                terminal.output(now(), task, data)
                found = True
        return found

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()
