"""A run directory, found and read back: who runs it, what has happened in it, what a kill has left in it."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from process_table import wait_until

from distrain.errors import UsageError
from distrain.launcher.events import Event
from distrain.launcher.runs import lock
from distrain.launcher.runs.find import brief, find, newest_first
from distrain.launcher.runs.follow import Sight, follow
from distrain.launcher.runs.history import Events, Tail, last_session_start
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks.files import LogFiles
from distrain.launcher.sinks.records import Records

NOW = 1_790_000_000.0


def make(runs: Path, name: str, *, at: float = NOW) -> RunDir:
    rundir = RunDir.create(runs, name, now=at)
    rundir.write_job("{}")
    os.utime(rundir.job_file, (at, at))
    return rundir


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return make(tmp_path / "runs", "one")


def record(rundir: RunDir, *events: Event) -> None:
    records = Records(rundir, pytest.fail)
    for event in events:
        records.event(event)
    assert records.close()


# ---- which run


def test_a_run_is_found_by_path_name_beginning_or_last(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = rundir.path.parent
    other = make(runs, "other", at=NOW + 60)
    make(runs, "ones", at=NOW - 60)
    (runs / "no-run").mkdir()
    (runs / "a-file").write_text("")
    assert [found.name.split("-")[0] for found in newest_first(runs)] == ["other", "one", "ones"]
    for run, found in (("last", other), (rundir.name, rundir), (other.name[:4], other), (str(rundir.path), rundir)):
        assert find(run, runs) == found
    monkeypatch.chdir(runs)
    assert find(rundir.name, Path("elsewhere")) == rundir, "a folder of that name here"
    monkeypatch.chdir(rundir.path)
    assert find(".", Path("elsewhere")) == rundir


def test_one_that_is_taken_up_again_is_the_last(rundir: RunDir) -> None:
    make(rundir.path.parent, "other", at=NOW + 60)
    with lock.held(rundir):
        pass
    assert find("last", rundir.path.parent) == rundir


def test_what_is_no_run_or_more_than_one_is_told(rundir: RunDir, tmp_path: Path) -> None:
    runs = rundir.path.parent
    others = [make(runs, "one").name for _ in range(6)]
    for run, where, said in (
        ("one", runs, r"one may be one-[^ ]+, .* and 2 more; type more of the name"),
        ("two\x1b[2J", runs, r"there is no run two[^\x1b]\[2J in .*; see `distrain list`"),
        ("", runs, r"there is no run .* in"),
        ("last", tmp_path / "none", r"there are no runs in .*; name the place of others with --runs-dir"),
        (f"{runs}/none", runs, r"/none is no run directory: there is no job.yaml in it; see `distrain list`"),
    ):
        with pytest.raises(UsageError, match=said):
            find(run, where)
    assert len(others) == 6


# ---- who runs it

HOLDER = """
import sys, time
from pathlib import Path
from distrain.launcher.runs.lock import held
from distrain.launcher.runs.rundir import RunDir
with held(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(rundir: RunDir):
    """A launcher, as far as its lock goes."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(rundir.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()


@pytest.mark.processes
def test_a_run_that_is_held_says_by_whom_until_they_are_gone(rundir: RunDir, holder: subprocess.Popen[bytes]) -> None:
    assert lock.launcher_of(rundir) == lock.Launcher(holder.pid, os.uname().nodename, lock.numbering())
    assert rundir.lock_file.stat().st_mode & 0o777 == 0o600
    assert int(rundir.lock_file.read_text().split()[0]) == holder.pid
    with pytest.raises(UsageError, match=rf"^{rundir.name} is still going; .*`distrain stop "), lock.held(rundir):
        pytest.fail("two launchers")
    holder.kill()
    holder.wait(10)
    assert lock.launcher_of(rundir) is None
    with lock.held(rundir):
        assert lock.launcher_of(rundir) == lock.Launcher(os.getpid(), os.uname().nodename, lock.numbering())


@pytest.mark.processes
def test_only_the_process_that_holds_the_run_is_signalled(rundir: RunDir, holder: subprocess.Popen[bytes]) -> None:
    assert lock.send_signal(rundir, signal.SIGTERM)
    assert holder.wait(10) == -signal.SIGTERM
    with subprocess.Popen(["sleep", "600"]) as bystander:
        # A number that was given anew.
        rundir.lock_file.write_text(f"{bystander.pid}\n{os.uname().nodename}\n{lock.numbering()}\n")
        assert not lock.send_signal(rundir, signal.SIGTERM)
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.processes
def test_a_launcher_elsewhere_is_not_signalled(rundir: RunDir, holder: subprocess.Popen[bytes]) -> None:
    rundir.lock_file.write_text(f"{holder.pid}\n{os.uname().nodename}\nanother-boot/pid:[1]\n")  # or a container
    with pytest.raises(UsageError, match=r"is run from .*; stop it there"):
        lock.send_signal(rundir, signal.SIGTERM)
    assert holder.poll() is None


@pytest.mark.processes
def test_what_a_run_has_left_is_waited_for(rundir: RunDir) -> None:
    with lock.agents_held(rundir, enough=lambda: False) as fd:
        agent = subprocess.Popen(["sleep", "600"], pass_fds=(fd,))
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            agent.kill()
            agent.wait(10)
        return False

    with lock.agents_held(rundir, enough=look):
        assert looks >= 3


# ---- what has happened in it


def test_events_come_back_as_they_were_from_the_last_time_on(rundir: RunDir) -> None:
    long = Event(NOW, "note", 1, data={"message": "x" * 3_000_000})
    first, second = (Event(NOW + at, "run_started", at, data={"run": "r", "said": '"kind":"x"'}) for at in (1, 5))
    metrics = {"loss": math.inf, "accuracy": 0.5}
    since = [
        Event(NOW + 6, "metrics", 5, "worker:0", "local", {"split": "train", "metrics": metrics, "step": 1}),
        Event(NOW + 7, "note", 5, data={"message": 'he said "kind":"run_started"'}),
        long,
    ]
    record(rundir, first, long, second, *since)
    assert last_session_start(rundir) == second
    events = Events(rundir)
    read = []
    while new := events.read():
        read += new
    assert read == [second, *since]
    record(rundir, first)
    assert events.read() == [first]
    events.close()
    assert last_session_start(rundir) == first


def test_a_line_that_is_being_written_is_read_when_it_is_whole(rundir: RunDir) -> None:
    record(rundir, Event(NOW, "run_started", 1, data={"run": "r"}))
    events = Events(rundir)
    events.read()
    line = b'{"time":1,"kind":"note","task":null,"host":null,"attempt":1,"message":"a"}\n'
    with rundir.events_file.open("ab", buffering=0) as file:
        file.write(line[:30])
        assert events.read() == []
        file.write(line[30:] + b"no event\n[]\n{}\n")
        assert events.read() == [Event(1.0, "note", 1, data={"message": "a"})]
    events.close()


def test_a_file_may_come_later_and_be_begun_anew(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.read() == b""
    (tmp_path / "log").write_bytes(b"ab")
    assert (tail.read(), tail.read()) == (b"ab", b"")
    (tmp_path / "log").unlink()
    assert tail.read() == b""
    (tmp_path / "log").write_bytes(b"c")
    wait_until(lambda: tail.read() == b"c", 5)
    tail.close()


@pytest.mark.parametrize("state", ["succeeded", "failed", "stopped", "lost"])
def test_a_run_in_brief(rundir: RunDir, state: str) -> None:
    record(
        rundir,
        Event(NOW, "run_started", 2, data={"run": rundir.name, "strategy": "OneDevice", "epochs": 3}),
        Event(NOW + 1, "started", 2, "worker:0", "local", {"steps_per_epoch": 10}),
        Event(NOW + 2, "progress", 2, "worker:0", "local", {"epoch": 2, "step": 15}),
        Event(NOW + 4, "note", 2, data={"message": ""}),
    )
    if state != "lost":
        rundir.write_summary({"state": state})
    now = brief(rundir)
    assert (now.state, now.launcher, now.strategy, now.attempt) == (state, None, "OneDevice", 2)
    assert (now.epoch, now.epochs, now.step, now.steps, now.began, now.lasted_s) == (2, 3, 15, 30, NOW, 4.0)
    with lock.held(rundir):
        assert brief(rundir).state == "running"


def test_an_empty_run_is_lost(rundir: RunDir) -> None:
    now = brief(rundir)
    assert (now.state, now.step, now.attempt, now.began) == ("lost", None, 0, NOW)


# ---- what a kill has left


def test_half_a_record_is_cut_and_half_a_line_ended(rundir: RunDir) -> None:
    record(rundir, Event(NOW, "run_started", 1))
    whole = rundir.events_file.read_bytes()
    rundir.events_file.write_bytes(whole + b'{"time":1,"ki' + b"x" * 200_000)
    rundir.metrics_file.write_bytes(b'{"half')
    rundir.log_file("worker:0").write_bytes(b"one\nhal")
    rundir.log_file("ps:0").write_bytes(b"one\n")
    rundir.merged_log.write_bytes(b"one\nhal")
    (rundir.logs / "notes.log").write_bytes(b"mine")
    record(rundir, Event(NOW, "note", 2))
    logs = LogFiles(rundir, pytest.fail)
    logs.event(Event(NOW, "attempt_started", 2))
    logs.output(NOW, "worker:0", b"more\n")
    assert logs.close()
    assert rundir.events_file.read_bytes().startswith(whole)
    assert [event.kind for event in Events(rundir).read()] == ["run_started", "note"]
    assert rundir.metrics_file.read_bytes() == b""
    part = rundir.log_file("ps:0").read_bytes().removeprefix(b"one\n")
    assert part.startswith(b"---- ")
    assert part.endswith(b" attempt 2 ----\n")
    assert rundir.log_file("worker:0").read_bytes() == b"one\nhal\n" + part + b"more\n"
    assert rundir.merged_log.read_bytes().startswith(b"one\nhal\n2026-")
    assert (rundir.logs / "notes.log").read_bytes() == b"mine"


def test_the_line_between_attempts_is_at_a_margin(rundir: RunDir) -> None:
    logs = LogFiles(rundir, pytest.fail)
    logs.output(NOW, "worker:0", b"half")
    logs.output(NOW, "ps:0", b"whole\n")
    logs.event(Event(NOW, "task_cleared", 1, "worker:0"))
    logs.event(Event(NOW, "respawning", 1, "worker:0"))
    logs.output(NOW, "worker:0", b"again")
    logs.event(Event(NOW, "task_exited", 1, "worker:0"))
    logs.event(Event(NOW, "attempt_started", 2))
    assert logs.close()
    lines = rundir.log_file("worker:0").read_text().splitlines()
    assert [line.split(" ", 2)[-1] for line in lines] == ["half", "worker:0 again ----", "again", "attempt 2 ----"]
    assert [line.split(" ", 2)[-1] for line in rundir.log_file("ps:0").read_text().splitlines()] == [
        "whole",
        "attempt 2 ----",
    ]


def test_attempts_are_counted_on(rundir: RunDir) -> None:
    assert rundir.last_attempt == 0
    rundir.write_plan({"attempt": 3})
    assert RunDir.reopen(rundir.path).last_attempt == 3
    rundir.plan_file.write_text("{")
    with pytest.raises(UsageError, match=r"plan.json cannot be read, .*begin a new run from it with --name"):
        _ = rundir.last_attempt


# ---- looking at it


def test_one_who_looks_while_it_is_taken_up_again_sees_it_go_on(rundir: RunDir) -> None:
    """Its launcher is there, and what is recorded is still of the time before."""
    tasks = [["worker:0", "local"]]
    started = Event(NOW, "run_started", 1, data={"run": rundir.name, "name": "one", "tasks": tasks, "epochs": 0})
    summary = {"state": "stopped", "exit_code": 143, "attempts": 1, "epochs": 0, "steps": 0, "metrics": {}}
    ended = Event(NOW + 1, "run_ended", 1, data={**summary, "timings": {"total_s": 1.0, "recoveries": []}})
    record(rundir, started, ended)
    stream = io.StringIO()
    with ThreadPoolExecutor(1) as pool:
        with lock.held(rundir):
            looking = pool.submit(follow, rundir, stream, plain=True)
            with pytest.raises(TimeoutError):
                looking.result(0.5)
            record(rundir, replace(started, time=NOW + 2, attempt=2))
            wait_until(lambda: "is going" in stream.getvalue(), 30)
            data = {**ended.data, "state": "succeeded", "exit_code": 0, "attempts": 2}
            record(rundir, replace(ended, time=NOW + 3, attempt=2, data=data))
        assert looking.result(30) == Sight(0)
    assert stream.getvalue().count("stopped  ") == 0
    assert f"\nsucceeded  {rundir.name}\n" in stream.getvalue()
    stream = io.StringIO()
    assert follow(rundir, stream, plain=True) == Sight(0)
    assert stream.getvalue().startswith(f"\nsucceeded  {rundir.name}\n")


def test_one_who_looks_at_a_lost_run_is_told_nothing_of_its_end(rundir: RunDir) -> None:
    record(rundir, Event(NOW, "run_started", 1, data={"run": rundir.name, "name": "one", "tasks": [], "epochs": 0}))
    stream = io.StringIO()
    assert follow(rundir, stream, plain=True) == Sight(1, lost=True)
    assert stream.getvalue() == ""
