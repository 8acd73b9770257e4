"""Whole runs with real processes: launcher, guard, agent and toy tasks, without TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process_table import MARK, Process, marked, wait_until

pytestmark = pytest.mark.processes
HERE = Path(__file__).parent
RAW = {
    "unfinished": b"no newline at the end",
    "invalid": b"\xff\xfe\x80 not UTF-8\n",
    "long": b"x" * 10_000_000 + b"\n",
}


class ToyRun:
    """A run in a launcher process of its own."""

    def __init__(self, tmp_path: Path, strategy: str = "MultiWorkerMirrored", workers: int = 2, **env: str) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = tmp_path / self.mark
        self.folder.mkdir()
        python = self.folder / "python"
        python.write_text(
            "#!/bin/sh\n"
            f'if [ "$1 $2" = "-m distrain.worker" ]; then exec {sys.executable} -S {HERE}/toy_worker.py; fi\n'
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        job = self.folder / "job.yaml"
        job.write_text(
            json.dumps(
                {
                    "name": "toy",
                    "strategy": strategy,
                    "dataset": {"name": "digits", "batch_size": 60},
                    "cluster": {"workers": workers},
                    "warm": False,
                    "env": env,
                }
            )
        )
        self.runs = self.folder / "runs"
        self.out = self.folder / "out"
        with self.out.open("wb") as out:
            self.launcher = subprocess.Popen(
                [sys.executable, str(HERE / "drive.py"), str(job), str(self.runs), str(python)],
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def rundir(self) -> Path:
        (found,) = self.runs.iterdir()
        return found

    @property
    def text(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.rundir / "summary.json").read_text())
        return summary

    @property
    def events(self) -> list[dict[str, Any]]:
        text = (self.rundir / "events.jsonl").read_text()
        # A line that is just being written has no newline yet.
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def event(self, kind: str, task: str | None = None) -> dict[str, Any]:
        return next(event for event in self.events if event["kind"] == kind and task in (None, event["task"]))

    def all_ready(self) -> None:
        """Waits until every task of the plan has said `ready`, and what it starts afterwards is up to the test."""

        def ready() -> bool:
            if self.launcher.poll() is not None:
                raise AssertionError(f"the launcher ended early with {self.launcher.returncode}:\n{self.text}")
            found = list(self.runs.glob("*/plan.json"))
            if not found:
                return False
            tasks = json.loads(found[0].read_text())
            names = {task["task"] for task in tasks["tasks"]}
            return names <= {event["task"] for event in self.events if event["kind"] == "ready"}

        wait_until(ready, 30, "every task ready")

    def addresses(self) -> set[str]:
        return {task["address"] for task in json.loads((self.rundir / "plan.json").read_text())["tasks"]}

    def processes(self) -> list[Process]:
        return marked(self.mark)

    def agents(self) -> tuple[int, int]:
        """The pids of guard and agent: the launcher's child, and that one's."""
        by_parent = {process.parent: process.pid for process in self.processes()}
        guard = by_parent[self.launcher.pid]
        return guard, by_parent[guard]

    def wait(self, timeout_s: float = 30) -> int:
        return self.launcher.wait(timeout_s)

    def none_left(self, timeout_s: float = 10) -> float:
        return wait_until(lambda: not self.processes(), timeout_s, f"no process left of {self.processes()}")


@pytest.fixture
def toy_run(tmp_path: Path) -> Iterator[Any]:
    runs: list[ToyRun] = []

    def start(*args: Any, **env: Any) -> ToyRun:
        runs.append(ToyRun(tmp_path, *args, **env))
        return runs[-1]

    yield start
    for run in runs:
        for process in run.processes():
            os.kill(process.pid, signal.SIGKILL)
        run.launcher.wait(10)


def test_success_leaves_a_run_directory_and_no_process(toy_run: Any) -> None:
    run = toy_run(TOY="ready,train,done")
    assert run.wait() == 0
    assert run.processes() == []
    assert run.summary["state"] == "succeeded"
    assert run.summary["first_failure"] is None
    assert run.summary["metrics"]["train"] == {"loss": 0.5}
    assert stat.S_IMODE(run.rundir.stat().st_mode) == 0o700
    plan = json.loads((run.rundir / "plan.json").read_text())
    assert [task["task"] for task in plan["tasks"]] == ["worker:0", "worker:1"]
    assert plan["tasks"][1]["TF_CONFIG"]["task"] == {"type": "worker", "index": 1}


def test_parameter_servers_end_with_the_chief(toy_run: Any) -> None:
    run = toy_run("ParameterServer", TOY="ready,wait", TOY_CHIEF_0="ready,train,done")
    assert run.wait() == 0
    assert run.processes() == []
    assert run.summary["state"] == "succeeded"


@pytest.mark.parametrize(
    ("how", "code", "expected"),
    [
        ("fail=no good", 1, {"kind": "exception", "exit_code": 1, "message": "ValueError: no good"}),
        ("exit=7", 1, {"kind": "exit", "exit_code": 7}),
        ("kill=9", 1, {"kind": "signal", "signal": "SIGKILL"}),
        ("kill=11", 1, {"kind": "signal", "signal": "SIGSEGV"}),
        ("exit=0", 1, {"kind": "early_exit", "exit_code": 0}),
        ("refuse=there is no such model", 2, {"kind": "job", "exit_code": 2, "message": "there is no such model"}),
    ],
)
def test_a_task_that_dies_is_the_named_cause(
    toy_run: Any, tmp_path: Path, how: str, code: int, expected: dict[str, Any]
) -> None:
    go = tmp_path / "go"
    run = toy_run(
        TOY_WORKER_1=f"ready,after={go},touch={tmp_path}/dying,{how}", TOY_WORKER_0="ready,ignore_term,children=2,wait"
    )
    run.all_ready()
    go.touch()
    assert run.wait() == code
    assert run.processes() == []
    first = run.summary["first_failure"]
    assert first["task"] == "worker:1"
    assert expected.items() <= first.items()
    if "kill" in how or "exit" in how:
        assert first["log_tail"][-1] == "last words"
    died = (tmp_path / "dying-worker-1").stat().st_mtime
    told, ended = run.event("task_failed")["time"], run.event("run_ended")["time"]
    assert told - died <= 1.0
    assert ended - told <= 5.0
    assert "worker:1" in run.text


def test_ctrl_c_ends_in_order(toy_run: Any) -> None:
    run = toy_run(TOY="ready,children=2,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.processes() == []
    assert run.summary["state"] == "stopped"
    assert run.summary["first_failure"] is None


def test_ctrl_c_twice_ends_at_once(toy_run: Any) -> None:
    run = toy_run(TOY="ready,ignore_term,children=2,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGINT)
    wait_until(lambda: any(event["kind"] == "stopping" for event in run.events), 5, "stopping")
    os.kill(run.launcher.pid, signal.SIGINT)
    assert wait_until(lambda: run.launcher.poll() is not None, 10, "the end") < 3
    assert run.wait() == 130
    assert run.processes() == []
    assert run.summary["state"] == "stopped"


def test_sigterm_ends_in_order(toy_run: Any) -> None:
    run = toy_run(TOY="ready,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGTERM)
    assert run.wait() == 143
    assert run.processes() == []
    assert run.summary["state"] == "stopped"


def test_a_task_that_ignores_sigterm_is_killed(toy_run: Any) -> None:
    run = toy_run(TOY_WORKER_0="ready,ignore_term,children=1,wait", TOY_WORKER_1="ready,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGTERM)
    assert run.wait() == 143
    assert run.processes() == []
    assert run.event("task_exited", "worker:0")["signal"] == "SIGKILL"
    assert run.event("task_exited", "worker:1")["signal"] == "SIGTERM"


def test_a_killed_launcher_leaves_nothing(toy_run: Any) -> None:
    run = toy_run(TOY="ready,ignore_term,children=2,wait")
    run.all_ready()
    os.kill(run.launcher.pid, signal.SIGKILL)
    run.wait()
    run.none_left(15)


@pytest.mark.parametrize("victim", ["guard", "agent"])
def test_a_killed_agent_leaves_nothing_and_is_named(toy_run: Any, victim: str) -> None:
    run = toy_run(TOY="ready,ignore_term,children=2,wait")
    run.all_ready()
    guard, agent = run.agents()
    os.kill(guard if victim == "guard" else agent, signal.SIGKILL)
    assert run.wait() == 3
    run.none_left()
    assert run.summary["first_failure"]["kind"] == "host"
    assert "local" in run.summary["first_failure"]["message"]


def test_two_runs_at_once_do_not_disturb_each_other(toy_run: Any) -> None:
    long, short = toy_run(TOY="ready,children=1,wait"), toy_run(TOY="ready,children=1,wait")
    long.all_ready()
    short.all_ready()
    assert not long.addresses() & short.addresses()
    os.kill(short.launcher.pid, signal.SIGINT)
    assert short.wait() == 130
    assert short.processes() == []
    # Launcher, guard, agent, two tasks and a child of each.
    assert len(long.processes()) == 7
    os.kill(long.launcher.pid, signal.SIGINT)
    assert long.wait() == 130
    assert long.processes() == []


@pytest.mark.parametrize("kind", ["unfinished", "invalid", "long"])
def test_a_task_log_holds_every_byte(toy_run: Any, kind: str) -> None:
    run = toy_run(TOY=f"ready,raw={kind},train,done")
    assert run.wait() == 0
    for task in ("worker-0", "worker-1"):
        assert (run.rundir / "logs" / f"{task}.log").read_bytes() == RAW[kind]


def test_many_lines_of_two_tasks_are_all_there(toy_run: Any) -> None:
    run = toy_run(TOY="ready,lines=200000,train,done")
    assert run.wait(60) == 0
    for index in (0, 1):
        expected = "".join(f"worker:{index} line {number}\n" for number in range(200_000))
        assert (run.rundir / "logs" / f"worker-{index}.log").read_text() == expected
    merged = (run.rundir / "logs" / "merged.log").read_text().splitlines()
    for index in (0, 1):
        own = [line.rpartition(" ")[2] for line in merged if f"worker:{index} line" in line]
        assert own == [str(number) for number in range(200_000)]
