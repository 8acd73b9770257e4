"""Runs on several hosts, reached by a stand-in for ssh: what gets there, what comes back, and how they end."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documented_events import undocumented
from far_run import FarRun

pytestmark = pytest.mark.processes

SCRIPT = """\
#!/bin/sh
echo "$DISTRAIN_TASK on $DISTRAIN_HOST: $GREETING"
echo "rank $RANK of $WORLD_SIZE, chief at $MASTER_ADDR:$MASTER_PORT"
cat 'with space/words.txt'
mkdir -p "$DISTRAIN_OUTPUT_DIR"
echo "$DISTRAIN_TASK" >"$DISTRAIN_OUTPUT_DIR/left.txt"
echo "$DISTRAIN_HOST" >'with space/made.txt'
"""


@pytest.fixture
def far_run(tmp_path: Path) -> Iterator[Any]:
    runs: list[FarRun] = []
    project = tmp_path / "project"
    (project / "with space").mkdir(parents=True)
    (project / "with space" / "words.txt").write_text("what the project says\n")
    (project / "work.sh").write_text(SCRIPT)
    (project / "work.sh").chmod(0o755)

    def start(program: list[str], hosts: list[Any], **keys: Any) -> FarRun:
        runs.append(FarRun(tmp_path, program, hosts, **keys))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def test_a_program_runs_on_two_hosts_with_nothing_shared(far_run: Any, tmp_path: Path) -> None:
    greeting = 'it\'s "quoted"; $(touch nothing) `x`\n-second line'
    run = far_run(["./work.sh"], ["one", {"host": "two", "slots": 2}], env={"GREETING": greeting})
    assert run.wait() == 0, run.text
    assert run.connections() == ["one", "two"], "one connection a host"
    for index, host in ((0, "one"), (1, "two"), (2, "two")):
        log = run.log(f"worker:{index}")
        assert f"worker:{index} on {host}: {greeting}" in log
        assert f"rank {index} of 3, chief at 127.0.0.1:" in log
        assert "what the project says" in log
    assert (run.rundir / "output" / "left.txt").read_text() == "worker:0\n"
    assert (run.rundir / "from" / "two" / "output" / "left.txt").read_text() in ("worker:1\n", "worker:2\n")
    assert stat.S_IMODE((run.rundir / "output" / "left.txt").stat().st_mode) == 0o600
    assert (run.rundir / "cwd" / "with space" / "made.txt").read_text() == "one\n"
    assert [path.name for path in (run.rundir / "cwd").rglob("*.*")] == ["made.txt"], (
        "and nothing that was there before"
    )
    assert (run.rundir / "from" / "two" / "cwd" / "with space" / "made.txt").read_text() == "two\n"
    assert run.summary["state"] == "succeeded"
    assert undocumented(run.events) == []
    assert run.processes() == []
    for host in ("one", "two"):
        kept = tmp_path / host / ".cache" / "distrain"
        files = [path for path in (tmp_path / host).rglob("*") if not path.is_dir()]
        left = [path for path in files if not path.is_relative_to(kept / "code")]
        assert left == [kept / "runs" / ".lock"], "a run leaves nothing on a host but what is kept for the next one"


def test_a_second_run_sends_nothing_again(far_run: Any, tmp_path: Path) -> None:
    assert far_run(["./work.sh"], ["one"]).wait() == 0
    stored = {path: path.stat().st_ino for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert stored
    assert far_run(["./work.sh"], ["one"]).wait() == 0
    assert {path: path.stat().st_ino for path in (tmp_path / "one").rglob("*") if path.is_file()} == stored


def test_a_file_that_cannot_be_kept_here_is_a_failure_and_costs_no_other_byte(far_run: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    words = f'until test -e {go}; do sleep 0.05; done; echo x >"$DISTRAIN_OUTPUT_DIR/x"; echo the last words'
    run = far_run(["sh", "-c", words], ["one"])
    run.wait_for("task_started")
    (run.rundir / "output").rmdir()
    (run.rundir / "output").write_text("in the way")
    go.touch()
    assert run.wait() == 1, run.text
    assert "output/x of the chief's host cannot be kept" in run.summary["first_failure"]["message"]
    assert run.log("worker:0") == "the last words\n"


def test_every_host_that_cannot_be_reached_is_named_and_the_others_are_left_clean(far_run: Any) -> None:
    run = far_run(["./work.sh"], ["one", "unknown1", "unknown2"])
    assert run.wait() == 3
    assert run.none_left() < 5
    for host in ("unknown1", "unknown2"):
        assert host in run.text
    assert run.summary["first_failure"]["kind"] == "host"
    assert not any(event["kind"] == "task_started" for event in run.events)
    assert undocumented(run.events) == []


def test_an_address_that_leads_nowhere_is_found_before_anything_starts(far_run: Any) -> None:
    run = far_run(["./work.sh"], ["one", {"host": "two", "address": "::2"}])
    assert run.wait() == 3
    assert "two: its address ::2 cannot be reached by the others (from" in run.text
    assert not any(event["kind"] == "task_started" for event in run.events)
    assert run.none_left() < 5


def test_ctrl_c_leaves_nothing_on_any_host(far_run: Any) -> None:
    run = far_run(["sh", "-c", "trap '' TERM; sleep 1000 & setsid sleep 1000 & wait; wait"], ["one", "two"])
    run.wait_for("task_started", 2)
    os.kill(run.launcher.pid, signal.SIGINT)
    os.kill(run.launcher.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.none_left() < 5


@pytest.mark.parametrize("victim", ["launcher", "agent"])
def test_nothing_is_left_after_a_kill(far_run: Any, victim: str) -> None:
    run = far_run(["sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"], ["one", "two"])
    run.wait_for("task_started", 2)
    os.kill(run.launcher.pid if victim == "launcher" else run.agents()[0], signal.SIGKILL)
    code = run.wait()
    assert code == (-signal.SIGKILL if victim == "launcher" else 3), run.text
    assert run.none_left(20) < 20


def test_a_host_that_is_frozen_is_noticed_and_cleans_up_when_it_wakes(far_run: Any) -> None:
    run = far_run(["sleep", "1000"], ["one", "two"], cluster={"contact_timeout_s": 2})
    run.wait_for("task_started", 2)
    frozen = next(pid for pid in run.agents() if os.readlink(f"/proc/{pid}/cwd").endswith("/two"))
    os.kill(frozen, signal.SIGSTOP)
    assert run.wait(20) == 3
    assert "two: nothing has been heard from it for 2 s" in run.text
    os.kill(frozen, signal.SIGCONT)
    assert run.none_left(20) < 20


def test_code_that_takes_longer_than_the_contact_timeout_gets_there(far_run: Any, tmp_path: Path) -> None:
    (tmp_path / "project" / "large").write_bytes(os.urandom(6_000_000))
    cluster = {"contact_timeout_s": 1.5}
    run = far_run(["sh", "-c", "wc -c <large"], ["one"], bytes_per_s=1_500_000, cluster=cluster)
    assert run.wait() == 0, run.text
    assert run.log("worker:0").strip() == "6000000"


def test_a_launcher_that_was_stopped_reads_first_what_has_arrived(far_run: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    cluster = {"contact_timeout_s": 4}
    run = far_run(["sh", "-c", f"until test -e {go}; do sleep 0.05; done"], ["one", "two"], cluster=cluster)
    run.wait_for("task_started", 2)
    os.kill(run.launcher.pid, signal.SIGSTOP)
    time.sleep(2.5)  # the time that passes is what is tested: more than half of what the hosts would wait for
    go.touch()
    os.kill(run.launcher.pid, signal.SIGCONT)
    assert run.wait() == 0, run.text
