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
from typing import Any, TextIO

from distrain.errors import UsageError
from distrain.job.cluster import Host, hosts_of, place
from distrain.job.dump import to_yaml
from distrain.job.plan import HostFacts, Plan, make_plan, placeholder_addresses
from distrain.job.spec import JobSpec
from distrain.launcher.bundle import open_bundle
from distrain.launcher.code import collect
from distrain.launcher.loop import Loop
from distrain.launcher.rundir import RunDir
from distrain.launcher.session import Base
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
    then_exit: bool = False,
) -> RunResult:
    """Runs `job` to its end, on its hosts. `python`: the interpreter of agent and tasks on this machine.

    `plain`: lines in place of the live view. `to_stderr`: leave stdout alone. SIGINT, SIGTERM and SIGHUP stop the run,
    and are the caller's again afterwards; `then_exit`: they are ignored from then on, for a caller that only exits with
    the result, which nothing shall change any more.

    Raises:
        UsageError: the run directory cannot be made, there is no current folder, or the user's code cannot travel.
            What happens later is in the result.
    """
    base = _base(job, job_file, runs_dir)
    with _caught_signals(then_ignored=then_exit) as signals, _stream(to_stderr=to_stderr) as stream:
        began = time.time()
        rundir = RunDir.create(runs_dir, job.name, now=began)
        rundir.write_job(to_yaml(job))
        if job.program is not None:
            rundir.make_output()
        sinks = open_sinks(rundir, plain=plain, stream=stream)
        loop = Loop(
            job,
            rundir,
            sinks,
            open_bundle(),
            signals,
            python=python,
            base=base,
            began=began,
        )
        try:
            summary = loop.run()
        finally:
            loop.close()
            closed = [sink.close() for sink in sinks]
    return RunResult(summary, rundir.path, loop.state.exit_code, shown=all(closed))


def dry_run_plan(job: JobSpec, *, job_file: Path | None = None) -> Plan:
    """The plan of a run, with placeholders for what only the hosts can tell.

    Raises:
        UsageError: there is no current folder.
    """
    cwd = _current_folder()
    placements = place(job)
    run = f"{job.name}-dry-run"
    return make_plan(
        job,
        placements,
        placeholder_addresses(job, placements),
        run=run,
        attempt=1,
        facts={host.name: _placeholder_facts(job, host, run, cwd, job_file) for host in hosts_of(job)},
    )


def _placeholder_facts(job: JobSpec, host: Host, run: str, cwd: str, job_file: Path | None) -> HostFacts:
    if host.transport == "local":
        return HostFacts(
            python=host.python or sys.executable,
            cwd=cwd,
            run_dir=f"runs/{run}",
            output_dir=f"runs/{run}/output",
            import_paths=_import_paths(cwd, job_file),
            cores=len(os.sched_getaffinity(0)),
            gpus=0,
        )
    folder = f"<the run's folder on {host.name}>"
    travels = job.program is None or job.code_folder is not None
    return HostFacts(
        python=host.python or "python3",
        cwd=f"{folder}/code" if travels else cwd,
        run_dir=f"{folder}/run",
        output_dir=f"{folder}/run/output",
        import_paths=(f"{folder}/code",),
        cores=1,
        gpus=0,
    )


def _base(job: JobSpec, job_file: Path | None, runs_dir: Path) -> Base:
    """Where the user stands, and the code that travels from there, if any host needs it.

    Raises:
        UsageError: there is no current folder, or its files cannot travel as they are.
    """
    cwd = _current_folder()
    import_paths = _import_paths(cwd, job_file)
    folder = job.code_folder
    if folder is None or all(host.transport == "local" for host in hosts_of(job)):
        return Base(cwd, import_paths)
    root = Path(os.path.realpath(folder))
    if job.program is not None and not Path(os.path.realpath(cwd)).is_relative_to(root):
        raise UsageError(
            f"code: {folder} does not hold the current folder, in which the program is to start; "
            "start distrain in that folder, or leave code out"
        )
    code = collect(root, skip=(Path(os.path.realpath(runs_dir)),))
    return Base(os.path.realpath(cwd), tuple(map(os.path.realpath, import_paths)), str(root), code)


def _current_folder() -> str:
    """Where the user stands, and the tasks will.

    Raises:
        UsageError: that folder has been deleted, or may not be looked at.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used: {error.strerror} (has it been deleted?); "
            "change into another and run again"
        ) from error


def _import_paths(cwd: str, job_file: Path | None) -> tuple[str, ...]:
    """Where `package.module:function` is looked for: where the user stands, then beside the job file."""
    places = [cwd, *([str(job_file.resolve().parent)] if job_file else [])]
    return tuple(dict.fromkeys(places))


@contextmanager
def _stream(*, to_stderr: bool) -> Iterator[TextIO]:
    """Where a run is shown; nowhere in a program that was started without that stream."""
    stream: TextIO | None = sys.stderr if to_stderr else sys.stdout
    if stream is not None:
        yield stream
        return
    with open(os.devnull, "w") as nowhere:
        yield nowhere


@contextmanager
def _caught_signals(*, then_ignored: bool) -> Iterator[socket.socket | None]:
    """A socket on which SIGINT, SIGTERM and SIGHUP arrive as bytes, in place of what they do by default.

    Afterwards they do what they did before or, without a moment in between, nothing. None outside the main thread,
    where Python handles no signals: the caller's program keeps them.
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
            signal.signal(number, signal.SIG_IGN if then_ignored else handler)
        reader.close()
        writer.close()
