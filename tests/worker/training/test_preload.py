"""The process that forks tasks: what a task inherits, and what it must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distrain.job.spec import DatasetSpec, Named

from .conftest import wait_until

pytestmark = pytest.mark.tensorflow


def test_a_task_is_ours_and_has_nothing_of_its_siblings(start: Any, make_job: Any) -> None:
    run = start(make_job(model=Named("user_code:network"), dataset=DatasetSpec("user_code:inspected", batch_size=48)))
    run.succeed()
    facts = dict(line.split("=", 1) for line in run.chief.text.splitlines() if "=" in line)
    pid = run.chief.pid
    assert facts["ids"] == f"{pid} {os.getpid()} {pid} {pid}", "pid, parent, group, session"
    assert facts["argv"] == "['distrain', 'worker:0']"
    assert facts["name"] == "worker:0"
    assert facts["cwd"] == str(run.run_dir)
    assert facts["task"] == "worker-0"
    assert facts["descriptors"] == "[0, 1, 2, 3, 4]"
    assert facts["dies_with_parent"] == "9"


def test_the_preloaded_process_has_one_thread_and_no_zombies(preloaded: Any, start: Any, make_job: Any) -> None:
    start(make_job()).succeed()
    assert len(os.listdir(f"/proc/{preloaded.process.pid}/task")) == 1
    children = Path(f"/proc/{preloaded.process.pid}/task/{preloaded.process.pid}/children").read_text()
    assert children == ""


def test_an_import_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libfoo.so is missing')")
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "distrain.worker.preload"],
            env={**os.environ, "DISTRAIN_PRELOAD_FD": str(theirs.fileno()), "PYTHONPATH": str(tmp_path)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        ours.settimeout(30)
        assert b"libfoo.so is missing" in ours.recv(65536)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"Traceback" in stderr


def test_a_task_without_agent_runs_too(start: Any, make_job: Any, tmp_path: Path) -> None:
    """Plain `python -m distrain.worker`: no event stream, the assignment on stdin."""
    from .conftest import tasks_of

    ((_, text, env),) = tasks_of(make_job(epochs=1), tmp_path)
    command = [sys.executable, "-m", "distrain.worker"]
    done = subprocess.run(command, input=text.encode(), env={**os.environ, **env}, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    wait_until((tmp_path / "model.keras").exists, 1)
