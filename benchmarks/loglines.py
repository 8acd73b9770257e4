"""Merged log lines per second: distrain's agent and sinks against honcho, on the same two printers.

Each printer prints 200,000 lines as fast as it is read. The time is that of the whole command, start-up included, with
its stdout going to a file, then to a pipe that is read. Every line must arrive: on honcho's stdout, and in distrain's
`logs/merged.log`, which it writes beside a log per task and its own stdout (whose lines are counted too: a terminal may
get fewer).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from processes import BASELINES
from side_by_side import Comparison, Measured, Side, by_turns, report

LINES = 200_000
PRINTERS = ("one", "two")
SINKS = ("file", "pipe")


def printer(name: str, folder: Path) -> list[str]:
    others = [other for other in PRINTERS if other != name]
    return [sys.executable, str(BASELINES / "printer.py"), str(LINES), str(folder), name, *others]


def distrain(folder: Path, to: str) -> Measured:
    commands = [json.dumps(printer(name, folder)) for name in PRINTERS]
    runs = folder / "runs"
    taken_s, shown = timed(
        (sys.executable, str(Path(__file__).with_name("merge_lines.py")), str(runs), *commands), folder, to
    )
    (merged,) = runs.glob("*/logs/merged.log")
    with merged.open("rb") as file:
        return measured(taken_s, count(file), shown)


def honcho(folder: Path, to: str) -> Measured:
    procfile = folder / "Procfile"
    procfile.write_text("".join(f"{name}: {' '.join(printer(name, folder))}\n" for name in PRINTERS))
    command = (sys.executable, "-m", "honcho", "start", "--no-colour", "-f", str(procfile))
    taken_s, shown = timed(command, folder, to)
    return measured(taken_s, shown, shown)


def measured(taken_s: float, merged: int, shown: int) -> Measured:
    if merged < LINES * len(PRINTERS):
        raise RuntimeError(f"of {LINES * len(PRINTERS):,} lines {merged:,} arrived")
    return {"merged lines": merged / taken_s, "lines on stdout": shown}


def timed(command: Sequence[str], folder: Path, to: str) -> tuple[float, int]:
    """Seconds from the start of `command` to its end, and the printers' lines on its stdout."""
    began = time.monotonic()
    if to == "pipe":
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            shown = count(process.stdout)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}")
        return time.monotonic() - began, shown
    with (folder / "stdout").open("wb") as file:
        subprocess.run(command, cwd=folder, stdout=file, check=True)
    taken_s = time.monotonic() - began
    with (folder / "stdout").open("rb") as file:
        return taken_s, count(file)


def count(stream: IO[bytes]) -> int:
    """The printers' lines; what distrain and honcho say themselves is not counted."""
    found, rest = 0, b""
    while data := stream.read(1 << 20):
        whole, newline, rest = (rest + data).rpartition(b"\n")
        found += (whole + newline).count(b" examples/s 4321.0\n")
    return found


def side(name: str, to: str) -> Side:
    def measure() -> Measured:
        with tempfile.TemporaryDirectory() as folder:
            return (distrain if name == "distrain" else honcho)(Path(folder), to)

    return Side(name, measure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for to in SINKS:
        comparison = Comparison("merged lines", "1/s", "distrain", "honcho", 10)
        sides = [side(name, to) for name in ("distrain", "honcho")]
        report(f"loglines-{to}", by_turns(sides, repeats), (comparison,), {"printers": len(PRINTERS), "lines": LINES})


if __name__ == "__main__":
    main()
