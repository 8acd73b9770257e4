"""Runs on several hosts that fail and go on, reached by a stand-in for ssh, with toy tasks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from far_run import FarRun
from process_table import wait_until
from toy_run import toy_python

pytestmark = pytest.mark.processes


@pytest.fixture
def far_toys(tmp_path: Path) -> Iterator[Any]:
    runs: list[FarRun] = []
    python = toy_python(tmp_path)

    def start(hosts: list[str], *, cluster: dict[str, Any] | None = None, **keys: Any) -> FarRun:
        offers = [{"host": host, "python": str(python)} for host in hosts]
        job = {
            "strategy": "MultiWorkerMirrored",
            "dataset": {"name": "digits", "batch_size": 60},
            "warm": False,
            "restart": {"backoff_s": 0.1},
            **keys,
        }
        runs.append(FarRun(tmp_path, None, offers, cluster={"workers": len(hosts), **(cluster or {})}, **job))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def pid(run: FarRun, task: str) -> int:
    pids: list[int] = [e["pid"] for e in run.events if e["kind"] == "task_started" and e["task"] == task]
    return pids[-1]


def agent_on(run: FarRun, host: str) -> int:
    return next(pid for pid in run.agents() if os.readlink(f"/proc/{pid}/cwd").endswith(f"/{host}"))


def until_received(run: FarRun, checkpoint: str) -> None:
    wait_until(lambda: (run.rundir / "checkpoints" / checkpoint / "checkpoint.json").exists(), 30)


def starts(run: FarRun) -> list[int]:
    return [event["from_step"] for event in run.events if event["kind"] == "attempt_started"]


TOY = {"TOY": "ready,step=15,checkpoint=10,wait", "TOY_AGAIN": "ready,step=11,step=20,checkpoint=20,done"}


def test_the_checkpoint_gets_to_every_host_and_the_connections_stay(far_toys: Any) -> None:
    run = far_toys(["one", "two"], env=TOY)
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    os.kill(pid(run, "worker:1"), signal.SIGKILL)
    assert run.wait() == 0, run.text
    assert starts(run) == [0, 10]
    assert run.connections() == ["one", "two"]
    assert (run.rundir / "checkpoints" / "step-00000020" / "state.npz").read_text() == "the state after 20 steps"
    assert undocumented(run.events) == []
    assert run.none_left() < 10


@pytest.mark.parametrize("host", ["one", "two"])
def test_a_host_that_is_lost_is_opened_again(far_toys: Any, host: str) -> None:
    run = far_toys(["one", "two"], env=TOY)
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    os.kill(agent_on(run, host), signal.SIGKILL)
    assert run.wait() == 0, run.text
    assert starts(run) == [0, 10], "the chief's own host may be the one that is lost"
    assert run.connections() == sorted(["one", "two", host])
    assert run.summary["timings"]["recoveries"][0]["cause"] == "host_lost"
    assert undocumented(run.events) == []
    assert run.none_left() < 10


def test_a_silent_host_is_given_up_and_taken_back_when_it_returns(far_toys: Any, tmp_path: Path) -> None:
    env = {"TOY": "ready,step=15,checkpoint=10,wait", "TOY_AGAIN": f"ready,step=12,after={tmp_path}/go,step=20,done"}
    run = far_toys(["one", "two", "three"], cluster={"contact_timeout_s": 2}, elastic={"min_workers": 1}, env=env)
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    (tmp_path / "two.gone").touch()
    os.kill(agent_on(run, "two"), signal.SIGKILL)
    run.wait_for("attempt_started", 2)
    changed = next(event for event in run.events if event["kind"] == "cluster_changed")
    assert changed["gone"] == ["two"]
    assert changed["tasks"] == [["worker:0", "one"], ["worker:1", "three"]]
    wait_until(lambda: sum(e["kind"] == "progress" and e["attempt"] == 2 for e in run.events) == 2, 30)
    (tmp_path / "two.gone").unlink()
    os.kill(pid(run, "worker:1"), signal.SIGKILL)
    run.wait_for("attempt_started", 3)
    (tmp_path / "go").touch()
    assert run.wait() == 0, run.text
    assert starts(run) == [0, 10, 10]
    assert {event["host"] for event in run.events if event["kind"] == "ready" and event["attempt"] == 3} == {
        "one",
        "two",
        "three",
    }
    assert "going on without two: 2 tasks on 2 hosts" in run.text
    assert "every host is back: 3 tasks on 3 hosts" in run.text
    assert undocumented(run.events) == []
    assert run.none_left() < 10


def test_a_host_that_does_not_come_back_is_the_failure_in_the_end(far_toys: Any, tmp_path: Path) -> None:
    run = far_toys(["one", "two"], cluster={"start_timeout_s": 4}, env=TOY)
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    (tmp_path / "two.gone").touch()
    os.kill(agent_on(run, "two"), signal.SIGKILL)
    assert run.wait() == 3, run.text
    assert run.summary["first_failure"]["host"] == "two"
    assert "No route to host" in run.summary["first_failure"]["message"] or "two" in run.text
    assert run.none_left() < 10


def test_ctrl_c_between_attempts_brings_home_what_the_hosts_have(far_toys: Any) -> None:
    run = far_toys(["one", "two"], restart={"backoff_s": 60}, env=TOY)
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    os.kill(pid(run, "worker:1"), signal.SIGKILL)
    run.wait_for("restarting")
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130, run.text
    assert run.summary["state"] == "stopped"
    assert run.none_left() < 10
