"""What the figures of a sweep mean: spreads, ratios that saw the same machine, and a recommendation in words. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distrain.launcher.bench.measure import Measurement
from distrain.launcher.bench.plan import Contender

ENOUGH_REPEATS = 3


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None: there are no values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass
class Row:
    """A contender, and its measurements by the number of the round. `failure`: why it was given up, a sentence."""

    contender: Contender
    measured: dict[int, Measurement] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    failure: str | None = None

    @property
    def label(self) -> str:
        return self.contender.combination.label

    @property
    def examples_per_s(self) -> Spread | None:
        return Spread.of([each.examples_per_s for each in self.measured.values()])

    @property
    def sent_bytes_per_step(self) -> Spread | None:
        told = [each.sent_bytes_per_step for each in self.measured.values() if each.sent_bytes_per_step is not None]
        return Spread.of(told) if len(told) == len(self.measured) else None

    @property
    def memory_bytes(self) -> Spread | None:
        """Of the task that has needed most."""
        return Spread.of([max(each.memory_bytes.values(), default=0) for each in self.measured.values()])

    def times_as_fast_as(self, other: Row) -> Spread | None:
        """How many times as many examples/s, in the rounds that both were in."""
        rounds = self.measured.keys() & other.measured.keys()
        return Spread.of([self.measured[n].examples_per_s / other.measured[n].examples_per_s for n in sorted(rounds)])


def efficiency(row: Row, rows: Sequence[Row]) -> Spread | None:
    """Examples/s of one worker against those of one worker where they are the fewest, all else being equal: 1 is
    perfect scaling. None: there is nothing to compare with.
    """
    alike = [other for other in rows if other.contender.combination.others == row.contender.combination.others]
    fewest = min(alike, key=lambda other: other.contender.workers)
    ratio = row.times_as_fast_as(fewest)
    if ratio is None or fewest is row:
        return None
    share = fewest.contender.workers / row.contender.workers
    return Spread(ratio.median * share, ratio.least * share, ratio.most * share)


def recommendation(rows: Sequence[Row]) -> tuple[str, ...]:
    """What to take, in sentences: of those that cannot be told apart, the one with the fewest workers."""
    speeds = {row.label: spread.median for row in rows if (spread := row.examples_per_s) is not None}
    measured = [row for row in rows if row.label in speeds]
    if not measured:
        return ("nothing was measured",)
    fastest = max(measured, key=lambda row: speeds[row.label])
    said = []
    if len(measured) > 1:
        best = min(
            (row for row in measured if row is fastest or _alike(row, fastest)),
            key=lambda row: (row.contender.workers, rows.index(row)),
        )
        said.append(f"Take {best.label}: {speeds[best.label]:,.0f} examples/s.")
        if best is not fastest:
            said.append(f"{fastest.label}: no faster than that, within the spread.")
        said += [_compared(best, other) for other in measured if other not in (best, fastest)]
        if min(len(row.measured) for row in measured) < ENOUGH_REPEATS:
            said.append(f"So few rounds say little about the spread: give --repeats {ENOUGH_REPEATS} or more.")
    else:
        said.append(
            f"{measured[0].label}: {speeds[measured[0].label]:,.0f} examples/s; there is nothing to compare with."
        )
    return tuple(said)


def _alike(row: Row, fastest: Row) -> bool:
    """Whether not every round saw `fastest` win."""
    ratio = fastest.times_as_fast_as(row)
    return ratio is None or ratio.least <= 1


def _compared(best: Row, other: Row) -> str:
    ratio = best.times_as_fast_as(other)
    if ratio is None:
        return f"{other.label}: in no round with it."
    if ratio.least <= 1 <= ratio.most:
        return f"{other.label}: no slower than that, within the spread."
    sent, theirs = best.sent_bytes_per_step, other.sent_bytes_per_step
    bytes_too = ""
    if sent is not None and theirs is not None and theirs.median > 0 and sent.median > 0:
        bytes_too = f", and sends {_times(sent.median / theirs.median)} the bytes per step"
    spread = f" ({ratio.least:.2f} to {ratio.most:.2f})" if ratio.least != ratio.most else ""
    return f"It is {_times(ratio.median)} as fast as {other.label}{spread}{bytes_too}."


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times"


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each row with every single measurement."""
    return [
        {
            "settings": dict(row.contender.combination.settings),
            "workers": row.contender.workers,
            "examples_per_s": _plain(row.examples_per_s),
            "efficiency": _plain(efficiency(row, rows)),
            "sent_bytes_per_step": _plain(row.sent_bytes_per_step),
            "memory_bytes": _plain(row.memory_bytes),
            "failure": row.failure,
            "runs": list(row.runs),
            "rounds": {str(number): each.to_json() for number, each in row.measured.items()},
        }
        for row in rows
    ]


def _plain(spread: Spread | None) -> Mapping[str, float] | None:
    return None if spread is None else vars(spread)
