"""What each strategy costs: examples/s, what it sends, and the memory of its tasks, all against OneDevice.

The network of the other benchmarks on MNIST, with a global batch of 128, on this machine and, where a strategy can be
on several hosts, on two hosts of scripts/netlab whose links carry 100 Mbit/s. All take turns. `--write FILE` puts the
medians into FILE as a table, between the lines that mark its place. Needs root, and what scripts/netlab needs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import Lab, lab
from side_by_side import Measured, Side, by_turns, write
from training_run import TrainingRun, data_folder, job, rate

BATCH_SIZE = 128
MEGABITS_PER_S = 100.0
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"


@dataclass(frozen=True)
class Case:
    """A line of the table. `batch_size`: of a step, which under ParameterServer is one worker's."""

    name: str
    strategy: Mapping[str, Any]
    cluster: Mapping[str, Any] = field(default_factory=dict)
    on_hosts: bool = True
    batch_size: int = BATCH_SIZE


TWO = {"workers": 2}
CASES = (
    Case("`OneDevice`", {"name": "OneDevice"}, on_hosts=False),
    Case("`Mirrored`, 2 devices", {"name": "Mirrored"}, {"devices_per_worker": 2}, on_hosts=False),
    Case("`MultiWorkerMirrored`, 2 workers", {"name": "MultiWorkerMirrored"}, TWO),
    Case("… `compression: bfloat16`", {"name": "MultiWorkerMirrored", "compression": "bfloat16"}, TWO),
    Case("`ParameterServer`, 2 workers, 1 ps", {"name": "ParameterServer"}, {**TWO, "ps": 1}),
    Case("`ParameterAveraging`, 2 workers", {"name": "ParameterAveraging", "sync_every": 8}, TWO),
    Case("`ModelParallel`, 2 workers", {"name": "ModelParallel"}, TWO),
    Case(
        "`Hybrid`, 2 x 2, 2 workers",
        {"name": "Hybrid", "mesh": {"batch": 2, "model": 2}},
        {**TWO, "devices_per_worker": 2},
    ),
)


def measured(case: Case, there: Lab | None, epochs: int, steps_per_epoch: int) -> Measured:
    """Of one run, from the end of its first epoch to that of its last; the memory is a task's peak, of the one that
    needs most. `there`: its hosts, None: this machine.
    """
    settings = job("", batch_size=case.batch_size, epochs=epochs, steps_per_epoch=steps_per_epoch)
    settings |= {"name": "benchmark-strategies", "strategy": dict(case.strategy), "cluster": dict(case.cluster)}
    env = None
    if there is not None:
        hosts: list[dict[str, Any]] = [{"host": name, "python": sys.executable} for name in there.namespaces]
        if case.cluster.get("ps"):
            hosts.append({**hosts[0], "roles": ["ps"]})
        settings["cluster"]["hosts"] = hosts
        env = {"PATH": there.path}
    chief, memory_bytes = "", 0
    reached: list[tuple[float, int]] = []
    sent: list[int] = []
    with TrainingRun(settings, env) as run:
        for event in run.events():
            if event["kind"] == "started":
                chief = event["task"]
            elif event["kind"] == "usage":
                memory_bytes = max(memory_bytes, event["memory_bytes"])
            elif event["kind"] == "progress" and event["task"] == chief and event["step"] % steps_per_epoch == 0:
                reached.append((event["time"], event["step"]))
                if there is not None:
                    sent.append(there.sent_bytes())
    figures = {"examples/s": rate(reached, case.batch_size), "memory of a task": float(memory_bytes)}
    if there is not None:
        figures["bytes per step"] = (sent[-1] - sent[0]) / (reached[-1][1] - reached[0][1])
    return figures


def table(here: Mapping[str, Sequence[Measured]], far: Mapping[str, Sequence[Measured]]) -> str:
    alone = [turn["examples/s"] for turn in here[CASES[0].name]]
    lines = [
        f"Made by `scripts/benchmark strategies --write`: do not edit between these lines. "
        f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; "
        f"medians of {len(alone)} rounds, and in brackets the least and the most.",
        "",
        "| | one machine: examples/s | times `OneDevice` | memory of a task | "
        f"two hosts, {MEGABITS_PER_S:g} Mbit/s: examples/s | sent per step |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        own = here[case.name]
        times = [turn["examples/s"] / one for turn, one in zip(own, alone, strict=True)]
        cells = [
            f"{_median(own, 'examples/s'):,.0f}",
            f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
            f"{_median(own, 'memory of a task') / 2**20:,.0f} MiB",
        ]
        turns = far.get(case.name)
        cells += (
            [f"{_median(turns, 'examples/s'):,.0f}", f"{_median(turns, 'bytes per step') / 1024:,.0f} KiB"]
            if turns
            else ["", ""]
        )
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _median(turns: Sequence[Measured], quantity: str) -> float:
    return statistics.median(turn[quantity] for turn in turns)


def put(text: str, path: Path) -> None:
    """Between the marks in the file at `path`."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{path} has no place for the table: the lines {BEGIN.strip()} and {END.strip()}")
    path.write_text(f"{before}{begin}{text}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()

    def sides(cases: Sequence[Case], there: Lab | None, epochs: int, steps: int) -> list[Side]:
        return [Side(case.name, lambda case=case: measured(case, there, epochs, steps)) for case in cases]

    here = by_turns(sides(CASES, None, 7, 62), options.repeats, warm_up=False)
    with lab("strategies", 2, shown=(str(data_folder()),)) as there:
        there.slow(MEGABITS_PER_S)
        cases = [case for case in CASES if case.on_hosts]
        far = by_turns(sides(cases, there, 3, 32), options.repeats, warm_up=False)
    text = table(here, far)
    print(text)
    write("strategies", {"here": here, "far": far, "conditions": {"batch_size": BATCH_SIZE}})
    if options.write is not None:
        put(text, options.write)


if __name__ == "__main__":
    main()
