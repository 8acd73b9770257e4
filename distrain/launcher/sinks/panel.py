"""The picture of a running job: how far it is, how well it does, a row per task.

Pure: a `View` and a size in, something for rich to render out.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from distrain.launcher.sinks.view import Recovery, TaskView, View
from distrain.launcher.sinks.words import duration, epoch_of, metrics, size
from distrain.launcher.supervise.stragglers import SLOW_RATIO

_WIDE = 56
"""Columns from which there is room for every column of the table."""

_TALL = 12
"""Rows from which one more for validation does not take the tasks' place."""


def panel(view: View, *, width: int, rows: int, now: float) -> RenderableType:
    """At most `rows` rows (at least 3) of at most `width` columns."""
    parts: list[RenderableType] = [Rule(style="dim"), _title(view, width, now), _advance(view, width, now)]
    figures = _figures(view, width) if rows >= _TALL else _figures(view, None)
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in figures[: rows - len(parts)]]
    room = rows - len(parts) - 1
    if view.tasks and room >= 1:
        parts.append(_table(view, width, room))
    return Group(*parts)


def _title(view: View, width: int, now: float) -> RenderableType:
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(view.name, "bold")
    if view.strategy and width >= _WIDE:
        title.append(f" · {view.strategy}")
    if view.attempt > 1:
        title.append(f" · attempt {view.attempt}")
    if view.recovery is not None and view.progress_at is not None:
        title.append(f" · catching up to step {view.recovery.furthest:,}", "yellow")
    if view.epoch:
        title.append(f" · {epoch_of(view.epoch, view)}")
    clock = duration(max(0.0, now - view.began))
    left_s = view.left_s(now)
    if left_s is not None and view.step < (view.steps or 0):
        clock += f" · {duration(left_s)} left"
    if width < len(clock) + 10:
        return title
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(title, clock)
    return grid


def _advance(view: View, width: int, now: float) -> RenderableType:
    if view.stopping:
        return Text(f"stopping: {view.stopping}", "yellow", no_wrap=True, overflow="ellipsis")
    if view.recovery is not None and view.recovery.attempt > view.attempt:
        return Text(_waiting(view.recovery, now), "yellow", no_wrap=True, overflow="ellipsis")
    if view.progress_at is None:
        return Text(_preparing(view), no_wrap=True, overflow="ellipsis")
    if not view.steps:
        return Text(f"step {view.step:,}", no_wrap=True, overflow="ellipsis")
    share = f"{100 * view.step / view.steps:3.0f}% · step {view.step:,}/{view.steps:,}"
    if width < len(share) + 10:
        return Text(share, no_wrap=True, overflow="ellipsis")
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=view.steps, completed=view.step, width=width - len(share) - 1), share)
    return grid


def _waiting(recovery: Recovery, now: float) -> str:
    """Between two attempts."""
    left_s = recovery.resumes_at - now
    when = f"in {left_s:.0f} s" if left_s >= 0.5 else "now"
    if recovery.missing:
        when = f"when {', '.join(recovery.missing)} can be used again"
    where = f"from step {recovery.from_step:,}" if recovery.from_step else "from the beginning"
    return f"{recovery.who}: {recovery.cause.replace('_', ' ')} · attempt {recovery.attempt} {where} {when}"


def _preparing(view: View) -> str:
    """What the run waits for before its first step. A program may never tell of one."""
    if not view.speaks:
        return " · ".join(f"{count} {state}" for state, count in Counter(t.state for t in view.tasks.values()).items())
    ready = sum(task.ready for task in view.tasks.values())
    if ready == len(view.tasks):
        return "the first step is under way"
    behind = Counter(task.state for task in view.tasks.values() if not task.ready)
    return f"{ready} of {len(view.tasks)} ready · " + " · ".join(f"{count} {state}" for state, count in behind.items())


def _figures(view: View, width: int | None) -> list[str]:
    """One line, or two if one does not fit into `width`."""
    parts = [metrics(view.train)] if view.train else []
    if view.examples_per_s is not None:
        parts.append(f"{view.examples_per_s:,.0f} examples/s")
    now = [" · ".join(parts)] if parts else []
    validation = [f"validation {metrics(view.validation)}"] if view.validation else []
    together = " · ".join(now + validation)
    if width is not None and len(together) > width:
        return now + validation
    return [together] if together else []


def _table(view: View, width: int, room: int) -> RenderableType:
    """`room` rows below the heading."""
    shown, hidden = _chosen(tuple(view.tasks.values()), room)
    wide = width >= _WIDE
    hosts = wide and len({task.host for task in view.tasks.values()}) > 1
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("task", no_wrap=True)
    if hosts:
        table.add_column("host", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True, overflow="ellipsis", min_width=20 if wide else 10)
    table.add_column("step", justify="right", no_wrap=True, min_width=6)
    if wide:
        table.add_column("examples/s", justify="right", no_wrap=True)
    paced = wide and any(task.ratio is not None for task in view.tasks.values())
    if paced:
        table.add_column("pace", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True, min_width=8)
    for task in shown:
        cells: list[RenderableType] = [task.name]
        cells += [task.host] if hosts else []
        cells += [Text(task.state, _style(task)), "" if task.step is None else f"{task.step:,}"]
        if wide:
            cells.append("" if task.examples_per_s is None or task.ended else f"{task.examples_per_s:,.0f}")
        if paced:
            cells.append(_pace(task))
        cells.append("" if task.memory_bytes is None else size(task.memory_bytes))
        table.add_row(*cells)
    if not hidden:
        return table
    states = " · ".join(f"{count} {state}" for state, count in Counter(task.state for task in hidden).most_common())
    more = Text(f"… and {len(hidden)} more: {states}", "dim", no_wrap=True, overflow="ellipsis")
    return Group(table, more) if shown else more


def _chosen(tasks: tuple[TaskView, ...], room: int) -> tuple[list[TaskView], list[TaskView]]:
    """The tasks to show and the others, both in the order of the plan.

    First those that failed, then those that are not where the others are, then those furthest behind.
    """
    if len(tasks) <= room:
        return list(tasks), []
    usual, _ = Counter(task.state for task in tasks).most_common(1)[0]
    by_interest = sorted(tasks, key=lambda task: (not task.failed, task.state == usual, task.step or 0))
    chosen = {task.name for task in by_interest[: room - 1]}
    return [task for task in tasks if task.name in chosen], [task for task in tasks if task.name not in chosen]


def _pace(task: TaskView) -> RenderableType:
    """How many times as long as the others it takes for a step."""
    if task.ratio is None or task.ended:
        return ""
    return Text(f"{task.ratio:.1f}x", "bold yellow" if task.ratio > SLOW_RATIO else "dim")


def _style(task: TaskView) -> str:
    if task.failed:
        return "bold red"
    if task.ended or task.state == "waiting":
        return "dim"
    return "green" if task.state in ("training", "running") else "cyan"
