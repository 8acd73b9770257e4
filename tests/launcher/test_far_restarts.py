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
    run.wait_for("task_started", 2)
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
    assert {event["host"] for event in run.events if event["kind"] == "host_lost"} == {"two"}
    assert undocumented(run.events) == []
    assert run.none_left() < 10


def test_the_only_host_that_is_left_may_be_lost_too(far_toys: Any, tmp_path: Path) -> None:
    env = {"TOY": "ready,step=15,checkpoint=10,wait", "TOY_AGAIN": f"ready,step=12,after={tmp_path}/go,step=20,done"}
    run = far_toys(["one", "two"], cluster={"contact_timeout_s": 2}, elastic={"min_workers": 1}, env=env)
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    (tmp_path / "two.gone").touch()
    os.kill(agent_on(run, "two"), signal.SIGKILL)
    run.wait_for("attempt_started", 2)
    wait_until(lambda: any(e["kind"] == "progress" and e["attempt"] == 2 for e in run.events), 30)
    os.kill(agent_on(run, "one"), signal.SIGKILL)
    run.wait_for("attempt_started", 3)
    (tmp_path / "go").touch()
    assert run.wait() == 0, run.text
    assert starts(run) == [0, 10, 10]
    assert "Traceback" not in run.text
    assert run.none_left() < 10


def test_a_hang_on_two_hosts_costs_neither_and_tells_where_both_are(far_toys: Any) -> None:
    run = far_toys(
        ["one", "two"],
        watchdog={"step_timeout_s": 2},
        env={"TOY": "ready,alive=step,step=15,checkpoint=10,wait", "TOY_AGAIN": "ready,alive=step,step=20,done"},
    )
    run.wait_for("checkpoint")
    until_received(run, "step-00000010")
    os.kill(pid(run, "worker:1"), signal.SIGSTOP)
    assert run.wait() == 0, run.text
    assert [failure["kind"] for failure in run.summary["failures"]] == ["hang"]
    for index in (0, 1):
        stacks = (run.rundir / "stacks" / "attempt-1" / f"worker-{index}.txt").read_text()
        assert "most recent call first" in stacks
    assert [event["host"] for event in run.events if event["kind"] == "host_lost"] == []
    assert run.connections() == ["one", "two"]
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


LEAVES = """\
trap '' TERM
mkdir -p $DISTRAIN_OUTPUT_DIR
echo $RANK >$DISTRAIN_OUTPUT_DIR/left.txt
if [ $RANK = 1 ]; then
    truncate -s 128M $DISTRAIN_OUTPUT_DIR/large
    until [ -e $SIGNS/go ]; do sleep 0.05; done
    exit 9
fi
touch $SIGNS/go
until [ -e $SIGNS/end ]; do sleep 0.05; done
"""
"""The one on the second host leaves more than is sent at once, and fails; the other one ends when it is let."""


def test_ctrl_c_while_an_attempt_is_stopped_brings_home_what_the_hosts_have(tmp_path: Path) -> None:
    restart = {"backoff_s": 0.1, "on": ["crash"]}
    env = {"SIGNS": str(tmp_path)}
    run = FarRun(tmp_path, ["sh", "-c", LEAVES], ["one", "two"], cluster={"workers": 2}, restart=restart, env=env)
    try:
        run.wait_for("task_cleared")
        os.kill(run.launcher.pid, signal.SIGINT)
        wait_until(lambda: "press Ctrl-C again" in run.text, 30)
        (tmp_path / "end").touch()
        assert run.wait() == 130, run.text
        assert (run.rundir / "output" / "left.txt").read_text() == "0\n"
        assert (run.rundir / "from" / "two" / "output" / "left.txt").read_text() == "1\n"
        assert (run.rundir / "from" / "two" / "output" / "large").stat().st_size == 128 << 20
        cleared = [event["host"] for event in run.events if event["kind"] == "task_cleared"]
        assert cleared[0] == "two", "which had been told that there would be another attempt"
        assert run.none_left() < 10
    finally:
        run.close()


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
