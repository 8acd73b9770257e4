"""`distrain bench`: which setting of a job is the fastest, by short runs of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distrain.cli.options import PATH, SET

if TYPE_CHECKING:
    from distrain.launcher.bench.result import Row, Spread
    from distrain.launcher.bench.sweep import Sweep, Turn

_TITLES = ("examples/s", "per worker", "sent per step", "memory of a task")


@click.command()
@click.argument("job", type=PATH)
@click.option("--workers", metavar="N,N", help="Numbers of workers, as in 1,2,4.")
@click.option("--vary", multiple=True, metavar="KEY=V,V", help="Values of a key of the job. May be repeated.")
@click.option("--steps", type=click.IntRange(min=10), default=500, show_default=True, help="Steps that count in a run.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each combination.")
@SET
@click.option("--out", type=PATH, metavar="DIR", help="A new folder for the figures, in place of one in bench/.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")
@click.option("--plain", is_flag=True, help="Print lines in place of a table.")
def bench(
    job: Path,
    workers: str | None,
    vary: tuple[str, ...],
    steps: int,
    repeats: int,
    sets: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    plain: bool,
) -> int:
    """Measure the file JOB with every combination of some settings, and say which to take.

    \b
    distrain bench JOB.yaml --workers 1,2
    distrain bench JOB.yaml --workers 1,2 --vary strategy.compression=none,bfloat16 --steps 200

    Each combination is run several times, all of them by turns, with a warm-up that does not count.
    """
    from distrain.cli import show
    from distrain.job.load import load_job
    from distrain.launcher.bench.plan import combinations, contenders, varied
    from distrain.launcher.bench.result import recommendation
    from distrain.launcher.bench.sweep import Sweep, new_folder

    chosen = combinations(varied(workers, vary))
    found = contenders(chosen, lambda more: load_job(job, (*sets, *more)), steps)
    sweep = Sweep(found, steps, repeats, out or new_folder(found[0].job.name), job)
    click.echo(f"{_count(len(found), 'combination')}, {_count(repeats, 'run')} of each, in {sweep.folder}", err=as_json)
    for turn in sweep.run():
        click.echo(f"round {turn.round}/{repeats} · {told(turn)}", err=as_json)
    chart = draw(sweep)
    if as_json:
        show.summary({**sweep.to_json(), "chart": str(chart) if chart is not None else None})
        return sweep.exit_code
    click.echo()
    _show(sweep.rows, plain=plain)
    for sentence in recommendation(sweep.rows):
        click.echo(sentence)
    if chart is not None:
        click.echo(f"the chart is {chart}")
    return sweep.exit_code


def told(turn: Turn) -> str:
    """What a run came to."""
    if turn.measured is None:
        return f"{turn.row.label}: {turn.row.failure}"
    return f"{turn.row.label}: {turn.measured.examples_per_s:,.0f} examples/s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def draw(sweep: Sweep) -> Path | None:
    """The chart's path, if there is anything to draw and something to draw it with."""
    from distrain.launcher.bench import chart

    if not any(row.measured for row in sweep.rows):
        return None
    if not chart.is_possible():
        click.echo(chart.ABSENT, err=True)
        return None
    path = sweep.folder / "chart.png"
    job = sweep.rows[0].contender.job
    chart.draw(sweep.rows, path, title=f"{job.name}, {job.strategy.name}, {sweep.steps} steps")
    return path


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table: a title for each column, then the figures of each row."""
    from distrain.launcher.bench.result import efficiency
    from distrain.launcher.sinks.words import size

    return [
        ("", *_TITLES),
        *(
            (
                row.label,
                _figure(row.examples_per_s, "{:,.0f}".format) if row.failure is None or row.measured else "failed",
                _figure(efficiency(row, rows), "{:.2f}".format),
                _figure(row.sent_bytes_per_step, size, spread_too=False),
                _figure(row.memory_bytes, size, spread_too=False),
            )
            for row in rows
        ),
    ]


def _figure(spread: Spread | None, shown: Callable[[float], str], *, spread_too: bool = True) -> str:
    if spread is None:
        return "-"
    if not spread_too or spread.least == spread.most:
        return shown(spread.median)
    return f"{shown(spread.median)} ({shown(spread.least)} to {shown(spread.most)})"


def _show(rows: Sequence[Row], *, plain: bool) -> None:
    import sys

    titles, *lines = cells(rows)
    if plain or not sys.stdout.isatty():
        for line in lines:
            figures = (f"{title} {cell}" for title, cell in zip(titles[1:], line[1:], strict=True) if cell != "-")
            click.echo(f"{line[0]}: {' · '.join(figures)}")
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(titles[0], *(Column(title, justify="right") for title in titles[1:]))
    for line in lines:
        table.add_row(*line)
    Console().print(table)
