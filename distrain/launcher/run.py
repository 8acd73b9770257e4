"""A run from its job to its result: makes the run directory, opens the sinks, and runs the loop to its end.

Also the Python API: `run_job`. What happens in between is the loop's.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from distrain.job.cluster import Host, hosts_of
from distrain.job.cluster import place as place_tasks
from distrain.job.dump import to_yaml
from distrain.job.plan import HostFacts, Plan, make_plan, placeholder_addresses
from distrain.job.spec import JobSpec
from distrain.launcher.chaos import Chaos
from distrain.launcher.events import now
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.hosts.code import collect
from distrain.launcher.loop import Loop
from distrain.launcher.outset import Outset, Place, place_of, settled
from distrain.launcher.runs import lock
from distrain.launcher.runs.resume import Resumption, begin, hand_over
from distrain.launcher.runs.rundir import RUNS_DIR, RunDir
from distrain.launcher.sinks import open_sinks
from distrain.launcher.transports import python_on


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
    runs_dir: Path = RUNS_DIR,
    plain: bool = False,
    to_stderr: bool = False,
    python: str = sys.executable,
    then_exit: bool = False,
    resume: Resumption | None = None,
    unseen: Callable[[RunDir], None] | None = None,
    chaos: Chaos | None = None,
) -> RunResult:
    """Runs `job` to its end, on its hosts. `python`: the interpreter of agent and tasks on this machine. `resume`: what
    it goes on from.

    `plain`: lines in place of the live view. `to_stderr`: leave stdout alone. `unseen`: show nothing at all, and call
    this when the run directory is there. SIGINT, SIGTERM and SIGHUP stop the run, and are the caller's again
    afterwards; `then_exit`: they are ignored from then on, for a caller that only exits with the result, which nothing
    shall change any more.

    Raises:
        UsageError: the run directory cannot be made, there is no current folder, the user's code cannot travel, or the
            run cannot be resumed. What happens later is in the result.
    """
    job = settled(job)
    place, code = place_of(job, job_file), None
    if place.root is not None:
        runs = (runs_dir, *((resume.origin.path,) if resume is not None else ()))
        code = collect(Path(place.root), skip=tuple(Path(os.path.realpath(path)) for path in runs))
    with ExitStack() as held:
        signals = held.enter_context(_caught_signals(then_ignored=then_exit))
        stream = held.enter_context(_stream(to_stderr=to_stderr))
        began = now()
        if resume is None:
            rundir, resumed_from = RunDir.create(runs_dir, job.name, now=began), None
            notes: tuple[tuple[str, str], ...] = ()
            held.enter_context(lock.held(rundir))
        else:
            held.enter_context(lock.held(resume.origin))
            beginning, rundir = begin(resume, job), resume.origin
            if resume.anew:
                rundir = RunDir.create(runs_dir, job.name, now=began)
                held.enter_context(lock.held(rundir))
            resumed_from, notes = beginning.told(resume), hand_over(beginning, resume, rundir, job)
        rundir.write_job(to_yaml(job))
        if unseen is not None:
            unseen(rundir)
        if job.program is not None:
            placements = place_tasks(job)
            chief = min(placements, key=lambda placement: placement.task).host
            others = {p.host.name for p in placements if p.host.transport == "local" and p.host != chief}
            rundir.make_outputs(others)
        agents_fd = held.enter_context(lock.agents_held(rundir, enough=_impatience(signals, stream)))
        outset = Outset(
            job,
            rundir,
            open_bundle(),
            python,
            place,
            code,
            job_file=str(job_file.resolve()) if job_file is not None else None,
            first_attempt=rundir.last_attempt + 1,
            resumed_from=resumed_from,
            notes=notes,
            agents_fd=agents_fd,
        )
        sinks = open_sinks(rundir, plain=plain, stream=stream if unseen is None else None)
        loop = Loop(outset, sinks, signals, began=began, chaos=chaos)
        try:
            summary = loop.run()
        finally:
            loop.close()
            rundir.clear_scratch()
            closed = [sink.close() for sink in sinks]
    return RunResult(summary, rundir.path, loop.state.exit_code, shown=all(closed))


def _impatience(signals: socket.socket | None, stream: TextIO) -> Callable[[], bool]:
    """Whether the user has had enough of waiting, which they are told of first."""
    told = False

    def enough() -> bool:
        nonlocal told
        if not told:
            told = True
            print("waiting until what the run has left from before has ended", file=stream, flush=True)
        return signals is not None and bool(select.select([signals], [], [], 0)[0])

    return enough


def dry_run_plan(job: JobSpec, *, job_file: Path | None = None) -> Plan:
    """The plan of a run, with placeholders for what only the hosts can tell.

    Raises:
        UsageError: there is no current folder, or the user's code cannot travel.
    """
    job = settled(job)
    place = place_of(job, job_file)
    placements = place_tasks(job)
    run = f"{job.name}-dry-run"
    return make_plan(
        job,
        placements,
        placeholder_addresses(job, placements),
        run=run,
        attempt=1,
        facts={host.name: _placeholder_facts(job, host, run, place) for host in hosts_of(job)},
    )


def _placeholder_facts(job: JobSpec, host: Host, run: str, place: Place) -> HostFacts:
    local = host.transport == "local"
    folder = "" if local else f"<the run's folder on {host.name}>"
    run_dir = f"runs/{run}" if local else f"{folder}/run"
    if not local and (job.program is None or place.root is not None):
        place = place.in_copy(f"{folder}/code")
    return HostFacts(
        python=python_on(host),
        cwd=place.cwd,
        run_dir=run_dir,
        output_dir=f"{run_dir}/output",
        checkpoints=f"{run_dir}/checkpoints",
        import_paths=place.import_paths,
        cores=len(os.sched_getaffinity(0)) if local else 1,
        gpus=0,
    )


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
