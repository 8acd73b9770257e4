"""Measures sides by turns in one run and compares them: medians, ranges, ratios; as a table and as JSON.

A ratio is made from the two measurements of one round, which saw the same machine, and always says how many times
better ours is: above 1 is better, whether more or less of a quantity is wanted. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"

PACKAGES = ("distrain", "tensorflow", "keras", "tf-keras", "honcho", "torch")

Measured = Mapping[str, float]
"""What one turn of one side gives: a value for each quantity."""


@dataclass(frozen=True)
class Side:
    """One of those compared. `measure` runs it once, from start to end."""

    name: str
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class Comparison:
    """`ours` against `theirs` in one quantity; `target`: the least ratio that is good enough."""

    quantity: str
    unit: str
    ours: str
    theirs: str
    target: float
    more_is_better: bool = True


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.least)} to {_short(self.most)})"


def by_turns(sides: Sequence[Side], repeats: int, *, warm_up: bool = True) -> dict[str, list[Measured]]:
    """Each side's measurements, one per round. Every other round is in reverse, so that no side is always first.

    `warm_up`: a round before them that is not counted, for the file cache's sake.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that `with` blocks still clean up
    measured: dict[str, list[Measured]] = {side.name: [] for side in sides}
    for turn in range(-1 if warm_up else 0, repeats):
        for side in sides if turn % 2 == 0 else reversed(sides):
            value = side.measure()
            shown = ", ".join(f"{quantity} {_short(number)}" for quantity, number in value.items())
            print(f"{'warm-up' if turn < 0 else f'{turn + 1}/{repeats}':>7}  {side.name}: {shown}", file=sys.stderr)
            if turn >= 0:
                measured[side.name].append(value)
    return measured


def ratios(measured: Mapping[str, Sequence[Measured]], comparison: Comparison) -> Spread:
    """How many times better ours is, over the rounds."""
    pairs = zip(measured[comparison.ours], measured[comparison.theirs], strict=True)
    quotients = [ours[comparison.quantity] / theirs[comparison.quantity] for ours, theirs in pairs]
    return Spread.of(quotients if comparison.more_is_better else [1 / quotient for quotient in quotients])


def report(
    name: str,
    measured: Mapping[str, Sequence[Measured]],
    comparisons: Sequence[Comparison],
    conditions: Mapping[str, Any],
) -> None:
    """Prints the comparisons and writes `results/<name>.json`. `conditions`: what else a reader must know."""
    table = Table("quantity", "ours", "", "theirs", "", "ratio", "target", "", title=name)
    rows = []
    for comparison in comparisons:
        ours, theirs = (
            Spread.of([turn[comparison.quantity] for turn in measured[side]])
            for side in (comparison.ours, comparison.theirs)
        )
        ratio = ratios(measured, comparison)
        met = ratio.median >= comparison.target
        table.add_row(
            f"{comparison.quantity} [{comparison.unit}]".replace("[", r"\["),
            comparison.ours,
            str(ours),
            comparison.theirs,
            str(theirs),
            str(ratio),
            f"≥ {comparison.target:g}",
            "[green]met" if met else "[red]missed",
        )
        rows.append({**vars(comparison), "met": met, **_json(ours=ours, theirs=theirs, ratio=ratio)})
    print_table(table)
    write(name, {"comparisons": rows, "measured": dict(measured), "conditions": dict(conditions)})


def print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def write(name: str, result: Mapping[str, Any]) -> None:
    """Writes `results/<name>.json`, with what is to be known of this machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "time": time.time(), "machine": _machine(), **result}, indent=2))
    print(f"written: {os.path.relpath(path)}", file=sys.stderr)


def _machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _json(**spreads: Spread) -> dict[str, dict[str, float]]:
    return {name: vars(spread) for name, spread in spreads.items()}


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
