"""What tasks print, through a whole run: no byte is lost, nobody waits for a reader, and memory stays bounded."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from process_table import peak_bytes, wait_until

pytestmark = pytest.mark.processes

RAW = {
    "unfinished": b"no newline at the end",
    "invalid": b"\xff\xfe\x80 not UTF-8\n",
    "long": b"x" * 10_000_000 + b"\n",
}


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


LINE = b"x" * 63 + b"\n"
FLOOD_BYTES = 150 * 1024 * 1024
LAUNCHER_BOUND_BYTES = 130 * 1024 * 1024
"""Some 45 MB of interpreter and libraries, and 32 MiB that wait for a pipe's reader, before and after a join."""
AGENT_BOUND_BYTES = 40 * 1024 * 1024


def log_sizes(run: Any) -> list[int]:
    logs = [run.rundir / "logs" / name for name in ("worker-0.log", "worker-1.log")]
    return [log.stat().st_size if log.exists() else 0 for log in logs]


def check_logs(run: Any) -> None:
    for name in ("worker-0.log", "worker-1.log"):
        assert (run.rundir / "logs" / name).read_bytes() == LINE * (FLOOD_BYTES // len(LINE))


def test_a_reader_that_never_reads_holds_up_nothing(toy_run: Any, tmp_path: Path) -> None:
    flooded, go = tmp_path / "flooded", tmp_path / "go"
    run = toy_run(TOY=f"ready,flood={FLOOD_BYTES},touch={flooded},after={go},train,done", unread=True)
    wait_until(lambda: len(list(tmp_path.glob("flooded-*"))) == 2, 60, "both tasks have printed everything")
    wait_until(lambda: all(size == FLOOD_BYTES for size in log_sizes(run)), 60, "the logs")
    _, agent = run.agents()
    assert peak_bytes(run.launcher.pid) < LAUNCHER_BOUND_BYTES
    assert peak_bytes(agent) < AGENT_BOUND_BYTES
    go.touch()
    assert run.wait(30) == 0
    check_logs(run)


def test_a_stopped_launcher_holds_up_no_task(toy_run: Any, tmp_path: Path) -> None:
    start, flooded = tmp_path / "start", tmp_path / "flooded"
    run = toy_run(TOY=f"ready,after={start},flood={FLOOD_BYTES},touch={flooded},train,done")
    run.all_ready()
    _, agent = run.agents()
    os.kill(run.launcher.pid, signal.SIGSTOP)
    start.touch()
    wait_until(lambda: len(list(tmp_path.glob("flooded-*"))) == 2, 60, "both tasks have printed everything")
    assert peak_bytes(agent) < AGENT_BOUND_BYTES
    os.kill(run.launcher.pid, signal.SIGCONT)
    assert run.wait(60) == 0
    check_logs(run)


def test_user_code_that_writes_odd_events_ends_nothing(toy_run: Any) -> None:
    run = toy_run(TOY="ready,say_odd_things,train,done")
    assert run.wait() == 0
    assert run.summary["state"] == "succeeded"
    notes = [event["message"] for event in run.events if event["kind"] == "note" and event["task"] == "worker:0"]
    assert notes == [
        "a `progress` event whose `step` is None was dropped",
        "an event of the unknown kind 'signal' was dropped",
        "an event of the unknown kind 'task_cleared' was dropped",
    ]
    assert "Traceback" not in run.text
