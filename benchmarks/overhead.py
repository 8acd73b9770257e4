"""What distrain itself costs: CPU of its short commands, and CPU and memory of what runs beside a training.

CPU of a command is user and system time of its process and their children. While training (MultiWorkerMirrored, two
workers), launcher, agent and guard are looked at in /proc for 30 seconds; the preloaded process, which only waits,
and the tasks are shown for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import command_name, cpu_s, pss_bytes
from rich.table import Table
from side_by_side import Measured, Side, Spread, by_turns, print_table, write
from training_run import TrainingRun, job

WATCHED_S = 30.0


def command_cpu(*arguments: str) -> Measured:
    process = subprocess.Popen((sys.executable, *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return {"CPU ms": (used.ru_utime + used.ru_stime) * 1000}


def commands(job_file: Path) -> tuple[Side, ...]:
    return (
        Side("python -c pass", lambda: command_cpu("-c", "pass")),
        Side("distrain --help", lambda: command_cpu("-m", "distrain", "--help")),
        Side("distrain --version", lambda: command_cpu("-m", "distrain", "--version")),
        Side("distrain run --dry-run", lambda: command_cpu("-m", "distrain", "run", "--dry-run", str(job_file))),
    )


def while_training() -> dict[str, dict[str, float]]:
    """By process: share of one core in percent, and PSS in MB, over WATCHED_S seconds of training."""
    with TrainingRun(job("MultiWorkerMirrored", workers=2, epochs=100_000)) as run:
        tasks: dict[int, str] = {}
        for event in run.events():
            if event["kind"] == "task_started":
                tasks[event["pid"]] = event["task"]
            if event["kind"] == "progress":
                break
        names = {pid: "distrain (launcher)" if pid == run.launcher.pid else tasks.get(pid) for pid in run.pids()}
        before = {pid: cpu_s(pid) for pid in names}
        began = time.monotonic()
        time.sleep(WATCHED_S)  # the measurement itself: how much CPU is used in this time
        shares = {pid: (cpu_s(pid) - before[pid]) / (time.monotonic() - began) for pid in names}
        return {
            names[pid] or command_name(pid): {"CPU %": shares[pid] * 100, "PSS MB": pss_bytes([pid]) / 1e6}
            for pid in names
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        job_file = Path(folder) / "job.yaml"
        job_file.write_text(json.dumps(job("MultiWorkerMirrored", workers=2)))
        measured = by_turns(commands(job_file), repeats)
    table = Table("command", "CPU ms", title="overhead: short commands")
    for name, turns in measured.items():
        table.add_row(name, str(Spread.of([turn["CPU ms"] for turn in turns])))
    print_table(table)

    processes = while_training()
    table = Table("process", "% of a core", "PSS MB", title=f"overhead: while training, {WATCHED_S:g} s")
    for name, cost in processes.items():
        table.add_row(name, f"{cost['CPU %']:.2f}", f"{cost['PSS MB']:.1f}")
    print_table(table)
    write("overhead", {"commands": measured, "while_training": processes})


if __name__ == "__main__":
    main()
