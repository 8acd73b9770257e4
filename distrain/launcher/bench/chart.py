"""A sweep as a picture. Needs matplotlib, which is no dependency of distrain's."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distrain.launcher.bench.plan import short
from distrain.launcher.bench.result import Row, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ABSENT = "there is no chart, as matplotlib is not installed: pip install 'distrain[bench]'"

_DPI = 150
_PANEL_INCHES = (6.0, 4.2)


def is_possible() -> bool:
    """Whether there is matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Examples/s of all that were measured, against the number of workers where that varies; and beside it what they
    send, where anything is sent. As a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.examples_per_s is not None]
    sends = any(row.sent_bytes_per_step is not None and row.sent_bytes_per_step.most > 0 for row in measured)
    panels = 2 if sends else 1
    figure = Figure(figsize=(_PANEL_INCHES[0] * panels, _PANEL_INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if len({row.contender.workers for row in measured}) > 1:
        _lines(axes[0], measured)
    else:
        _bars(axes[0], measured, [row.examples_per_s for row in measured], 1.0)
    axes[0].set_ylabel("examples per second")
    axes[0].yaxis.set_major_formatter("{x:,.0f}")
    if sends:
        _bars(axes[1], measured, [row.sent_bytes_per_step for row in measured], 1024.0)
        axes[1].set_ylabel("sent per step, all tasks [KiB]")
    figure.savefig(path, dpi=_DPI)


def _lines(axes: Axes, rows: Sequence[Row]) -> None:
    """A line for each setting of what else is varied, and dashed what it would be if each worker added as much as the
    first ones.
    """
    for others in dict.fromkeys(row.contender.combination.others for row in rows):
        alike = sorted(
            (row for row in rows if row.contender.combination.others == others), key=lambda row: row.contender.workers
        )
        workers = [row.contender.workers for row in alike]
        spreads = [spread for row in alike if (spread := row.examples_per_s) is not None]
        label = ", ".join(f"{short(key)} {value}" for key, value in others) or "measured"
        drawn = axes.errorbar(
            workers,
            [spread.median for spread in spreads],
            yerr=_errors(spreads, 1.0),
            marker="o",
            capsize=4,
            label=label,
        )
        ideal = [spreads[0].median * count / workers[0] for count in workers]
        axes.plot(workers, ideal, linestyle="--", linewidth=1, color=drawn[0].get_color(), alpha=0.5)
    axes.plot([], [], linestyle="--", linewidth=1, color="gray", label="each worker adding as much")
    axes.set_xticks(sorted({row.contender.workers for row in rows}))
    axes.set_xlabel("workers")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def _bars(axes: Axes, rows: Sequence[Row], spreads: Sequence[Spread | None], unit: float) -> None:
    known = [(row, spread) for row, spread in zip(rows, spreads, strict=True) if spread is not None]
    places = range(len(known))
    axes.bar(
        places,
        [spread.median / unit for _, spread in known],
        yerr=_errors([spread for _, spread in known], unit),
        capsize=4,
        width=0.6,
    )
    axes.set_xticks(places, [row.label.replace(", ", "\n") for row, _ in known])
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _errors(spreads: Sequence[Spread], unit: float) -> list[list[float]]:
    """From the median down to the least, and up to the most."""
    return [
        [(spread.median - spread.least) / unit for spread in spreads],
        [(spread.most - spread.median) / unit for spread in spreads],
    ]
