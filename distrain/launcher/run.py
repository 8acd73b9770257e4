"""A run from its job to its result: makes the run directory, opens the sinks, and runs the loop to its end.

Also the Python API: `run_job`. What happens in between is the loop's.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.job.cluster import LOCAL, place
from distrain.job.dump import to_yaml
from distrain.job.plan import Plan, make_plan, placeholder_addresses
from distrain.job.spec import JobSpec
from distrain.launcher.bundle import open_bundle
from distrain.launcher.loop import Loop
from distrain.launcher.rundir import RunDir
from distrain.launcher.sinks import open_sinks


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `shown` False: the terminal stopped taking text, and writing to it could block for ever."""

    summary: Mapping[str, Any]
    run_dir: Path
    exit_code: int
    shown: bool = True


def run_job(
    job: JobSpec,
    *,
    job_file: Path | None = None,
    runs_dir: Path = Path("runs"),
    plain: bool = False,
    to_stderr: bool = False,
    python: str = sys.executable,
) -> RunResult:
    """Runs `job` to its end, on this machine, with `python` as the interpreter of agent and tasks.

    `plain`: lines in place of the live view. `to_stderr`: leave stdout alone.

    Raises:
        UsageError: the run directory cannot be made. What happens later is in the result.
    """
    with _caught_signals() as signals:
        began = time.time()
        rundir = RunDir.create(runs_dir, job.name, now=began)
        rundir.write_job(to_yaml(job))
        sinks = open_sinks(rundir, plain=plain, stream=sys.stderr if to_stderr else sys.stdout)
        loop = Loop(
            job,
            rundir,
            sinks,
            open_bundle(),
            signals,
            python=python,
            import_paths=_import_paths(job_file),
            began=began,
        )
        try:
            summary = loop.run()
        finally:
            loop.close_links()
            closed = [sink.close() for sink in sinks]
    return RunResult(summary, rundir.path, loop.state.exit_code, shown=all(closed))


def dry_run_plan(job: JobSpec, *, job_file: Path | None = None) -> Plan:
    """The plan of a run on this machine, with placeholders where ports would be."""
    placements = place(job, (LOCAL,))
    return make_plan(
        job,
        placements,
        placeholder_addresses(job, placements),
        run=f"{job.name}-dry-run",
        run_dir=f"runs/{job.name}-dry-run",
        attempt=1,
        python=sys.executable,
        cwd=os.getcwd(),
        import_paths=_import_paths(job_file),
        cores={LOCAL.name: len(os.sched_getaffinity(0))},
        gpus={},
    )


def _import_paths(job_file: Path | None) -> tuple[str, ...]:
    """Where `package.module:function` is looked for: where the user stands, then beside the job file."""
    places = [Path.cwd(), *([job_file.resolve().parent] if job_file else [])]
    return tuple(dict.fromkeys(str(place) for place in places))


@contextmanager
def _caught_signals() -> Iterator[socket.socket | None]:
    """A socket on which SIGINT, SIGTERM and SIGHUP arrive as bytes, in place of what they do by default.

    None outside the main thread, where Python handles no signals: the caller's program keeps them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    # What the parent had ignored (nohup, a shell's background job) stays ignored.
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
