"""Faults on several hosts: each is injected into a run that trains, which must name it and train again."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_run import USER_CODE, FaultRun, Outcome, job, send
from netlab.lab import Lab
from netlab.launch import END_S, Launch, write_job

pytestmark = [pytest.mark.tensorflow]


@dataclass(frozen=True)
class Fault:
    """`injure` does it; `named` is what must be said of it, a regular expression. `lost`: these hosts and no others."""

    injure: Callable[[FaultRun, Lab], Outcome]
    named: str
    lost: frozenset[str] = frozenset()


def _agent(run: FaultRun, task: str) -> int:
    return int(Path(f"/proc/{run.pid(task)}/stat").read_text().rpartition(")")[2].split()[1])


def _kill(task: str, *, whole: bool = True) -> Fault:
    return Fault(
        lambda run, _: run.injured(lambda: send(run.pid(task), signal.SIGKILL), whole=whole),
        f"{task}: killed by SIGKILL",
    )


def _stop(task: str) -> Fault:
    return Fault(
        lambda run, _: run.injured(lambda: send(run.pid(task), signal.SIGSTOP)),
        f"{task}: .*(stands still|stopped answering)",
    )


def _cut(host: str) -> Fault:
    """Until it has been noticed."""
    return Fault(
        lambda run, lab: run.injured(lambda: lab.cut(host), until=lambda: lab.mend(host)),
        f"{host}: nothing has been heard from it",
        frozenset({host}),
    )


def _freeze(host: str) -> Fault:
    return Fault(
        lambda run, lab: run.injured(lambda: lab.freeze(host), until=lambda: lab.thaw(host)),
        f"{host}: nothing has been heard from it",
        frozenset({host}),
    )


def _kill_agent(task: str, host: str) -> Fault:
    return Fault(
        lambda run, _: run.injured(lambda: send(_agent(run, task), signal.SIGKILL)),
        f"{host}: the agent ended unexpectedly",
        frozenset({host}),
    )


def _leave(task: str, host: str) -> Fault:
    """The host is asked to leave, as a cloud does before it takes it away: it says goodbye, and is not lost."""
    return Fault(
        lambda run, _: run.injured(lambda: send(_agent(run, task), signal.SIGTERM)),
        f"{host}: the agent was ended by SIGTERM",
    )


FAULTS: dict[str, dict[str, Fault]] = {
    "OneDevice": {
        "SIGKILL of a worker": _kill("worker:0"),
        "the network of the chief's host is cut": _cut("host1"),
    },
    "MultiWorkerMirrored": {
        "SIGKILL of a worker": _kill("worker:1"),
        "SIGKILL of the chief": _kill("worker:0"),
        "a worker is stopped (SIGSTOP)": _stop("worker:1"),
        "the network of a host is cut": _cut("host2"),
        "the network of the chief's host is cut": _cut("host1"),
        "a host freezes": _freeze("host2"),
        "SIGKILL of an agent": _kill_agent("worker:1", "host2"),
        "preemption (SIGTERM to a host's agent)": _leave("worker:1", "host2"),
    },
    "ParameterServer": {
        "SIGKILL of a worker": _kill("worker:1", whole=False),
        "SIGKILL of a parameter server": _kill("ps:0"),
        "the network of the parameter server's host is cut": _cut("host3"),
    },
}
WORKERS: dict[str, tuple[str, ...]] = {
    "OneDevice": ("--workers", "host1"),
    "MultiWorkerMirrored": ("--workers", "host1,host2"),
    "ParameterServer": ("--workers", "host1,host2", "--ps", "host3"),
}
FEW = ("SIGKILL of a worker", "the network of the chief's host is cut")


@contextmanager
def training(launch: Callable[..., Launch], lab: Lab, user: Path, strategy: str) -> Iterator[FaultRun]:
    """A run of the strategy on the hosts. In the end it is stopped by Ctrl-C, and must leave nothing."""
    (user / "misbehaves.py").write_text(USER_CODE)
    run = launch(*WORKERS[strategy], write_job(user, **job(strategy)))
    try:
        yield FaultRun(lambda: run.events, lambda: list(lab.processes()), lambda: run.launcher.poll() is None)
        run.interrupt()
        assert run.launcher.wait(END_S) == 130, run.text
        summary = run.summary
        assert (summary["state"], summary["first_failure"]) == ("stopped", None)
        lab.none_left(timeout_s=10)
    except BaseException:
        print(run.text)
        raise


@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", FAULTS)
def test_a_run_survives(
    strategy: str,
    launch: Callable[..., Launch],
    lab: Lab,
    user: Path,
    all_faults: bool,
    record: Callable[[str, str, str, Outcome], None],
) -> None:
    with training(launch, lab, user, strategy) as run:
        for name, fault in FAULTS[strategy].items():
            if not all_faults and name not in FEW:
                continue
            outcome = fault.injure(run, lab)
            record(name, strategy, "hosts", outcome)
            assert re.match(fault.named, outcome.happened), (name, outcome)
            assert (outcome.lost, outcome.processes_left) == (fault.lost, 0), (name, outcome)
