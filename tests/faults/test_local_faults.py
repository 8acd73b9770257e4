"""Faults on one machine: each is injected into a run that trains, which must name it and train again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_run import USER_CODE, FaultRun, Outcome, alive, job, read_events, send
from process_table import MARK, marked, wait_until

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

SHORTLY_S = 1.0
"""How soon the end of a process must be named, over and above what a loaded machine adds."""
LOADED_S = 2.0


@dataclass(frozen=True)
class Fault:
    """`injure` does it; `named` is what must be said of it, a regular expression; `ends`: a process ends by it."""

    injure: Callable[[FaultRun, Path], Outcome]
    named: str
    ends: bool = False
    lost: frozenset[str] = frozenset()


def _kill(task: str, *, whole: bool = True) -> Fault:
    return Fault(
        lambda run, _: run.injured(lambda: send(run.pid(task), signal.SIGKILL), whole=whole),
        f"{task}: killed by SIGKILL",
        ends=True,
    )


def _stop(task: str, *, whole: bool = True) -> Fault:
    return Fault(
        lambda run, _: run.injured(lambda: send(run.pid(task), signal.SIGSTOP), whole=whole),
        f"{task}: .*(stands still|stopped answering)",
    )


def _terminate(task: str, *, named: str | None = None) -> Fault:
    return Fault(
        lambda run, _: run.injured(lambda: send(run.pid(task), signal.SIGTERM)), f"{named or task}: was asked to leave"
    )


def _ask(what: str, named: str) -> Fault:
    """Have the user's code misbehave, until it has been noticed."""
    return Fault(
        lambda run, folder: run.injured((folder / what).touch, until=lambda: (folder / what).unlink(missing_ok=True)),
        named,
    )


def _injure_agent(run: FaultRun, _: Path) -> Outcome:
    task = run.pid("worker:0")
    agent = int(Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[1])
    return run.injured(lambda: send(agent, signal.SIGKILL))


EVERYWHERE: dict[str, Fault] = {
    "SIGKILL of a worker": _kill("worker:0"),
    "a worker is stopped (SIGSTOP)": _stop("worker:0"),
    "preemption (SIGTERM to a worker)": _terminate("worker:0", named=r"worker:\d"),
    "a callback is stuck in Python": _ask("get-stuck", r"worker:\d: made no step for \d+ s: it is in Python code"),
    "an exception in the user's code": _ask("raise", r"worker:\d: RuntimeError: as was asked for"),
    "the loss is NaN, and rolled back": _ask("make-nan", r"worker:\d: the loss of step \d+ is nan"),
    "SIGKILL of the agent": Fault(
        _injure_agent,
        r"local: the agent ended unexpectedly",
        ends=True,
        lost=frozenset({"local"}),
    ),
}
OF_PARAMETER_SERVER: dict[str, Fault] = {
    "SIGKILL of a worker": _kill("worker:1", whole=False),
    "a worker is stopped (SIGSTOP)": _stop("worker:1", whole=False),
    "SIGKILL of a parameter server": _kill("ps:0"),
    "a parameter server is stopped (SIGSTOP)": _stop("ps:0"),
    "SIGKILL of the chief": _kill("chief:0"),
    "preemption (SIGTERM to the chief)": _terminate("chief:0"),
}
FAULTS: dict[str, dict[str, Fault]] = {
    "OneDevice": EVERYWHERE,
    "Mirrored": EVERYWHERE,
    "MultiWorkerMirrored": {**EVERYWHERE, "SIGKILL of another worker": _kill("worker:1")},
    "ParameterServer": OF_PARAMETER_SERVER,
}
CLUSTERS: dict[str, dict[str, int]] = {
    "OneDevice": {},
    "Mirrored": {"devices_per_worker": 2},
    "MultiWorkerMirrored": {"workers": 2},
    "ParameterServer": {"workers": 2, "ps": 1},
}
FEW = {
    "OneDevice": ("SIGKILL of a worker",),
    "Mirrored": ("preemption (SIGTERM to a worker)",),
    "MultiWorkerMirrored": ("SIGKILL of a worker", "a worker is stopped (SIGSTOP)", "an exception in the user's code"),
    "ParameterServer": ("SIGKILL of a worker", "SIGKILL of a parameter server"),
}


@contextmanager
def training(folder: Path, strategy: str) -> Iterator[FaultRun]:
    """A run of the strategy in `folder`. In the end it is stopped by Ctrl-C, and must leave nothing."""
    (folder / "job.yaml").write_text(json.dumps(job(strategy, **CLUSTERS[strategy])))
    (folder / "misbehaves.py").write_text(USER_CODE)
    mark = uuid.uuid4().hex
    with (folder / "out").open("w") as out:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "distrain", "run", "job.yaml", "--plain"],
            cwd=folder,
            env={**os.environ, MARK: mark},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until(lambda: list(folder.glob("runs/*/events.jsonl")), 30, "the run directory")
        (run_dir,) = (folder / "runs").iterdir()
        yield FaultRun(lambda: read_events(run_dir), lambda: alive(marked(mark)), lambda: launcher.poll() is None)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130, (folder / "out").read_text()
        wait_until(lambda: not marked(mark), 20, "no process left")
        summary = json.loads((run_dir / "summary.json").read_text())
        assert (summary["state"], summary["first_failure"]) == ("stopped", None)
    except BaseException:
        print((folder / "out").read_text())
        raise
    finally:
        for process in marked(mark):
            os.kill(process.pid, signal.SIGKILL)
        launcher.wait(10)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", FAULTS)
def test_a_run_survives(
    strategy: str, tmp_path: Path, all_faults: bool, record: Callable[[str, str, str, Outcome], None]
) -> None:
    with training(tmp_path, strategy) as run:
        for name, fault in FAULTS[strategy].items():
            if not all_faults and name not in FEW[strategy]:
                continue
            outcome = fault.injure(run, tmp_path)
            record(name, strategy, "local", outcome)
            assert re.match(fault.named, outcome.happened), (name, outcome)
            assert (outcome.lost, outcome.processes_left) == (fault.lost, 0), (name, outcome)
            if fault.ends:
                assert outcome.detected_s < SHORTLY_S + LOADED_S, (name, outcome)
