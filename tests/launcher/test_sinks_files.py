"""Log files and records: every byte, in order, readable while the run goes on, and honest about a failing disk."""

import errno
import json
import os
import random
import shutil
import stat
from pathlib import Path

import pytest

from distrain.launcher.events import Event
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks import open_sinks
from distrain.launcher.sinks.files import LogFiles
from distrain.launcher.sinks.lines import LONGEST_LINE_BYTES, Lines
from distrain.launcher.sinks.records import Records

pytestmark = pytest.mark.usefixtures("utc")

T = 1_790_000_000.0


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run", now=T)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def logs(rundir, warnings) -> LogFiles:
    return LogFiles(rundir, warnings.append)


def merged(rundir: RunDir) -> list[str]:
    return rundir.merged_log.read_text(errors="replace").splitlines()


def test_bytes_cut_anywhere_become_merged_lines_in_the_order_of_completion(rundir, logs):
    logs.output(T, "worker:0", b"first, in ")
    logs.output(T + 0.25, "worker:1", b"whole\n")
    logs.output(T + 0.5, "worker:0", b"two pieces\n\nrest")
    logs.event(Event(T + 1, "task_exited", 1, "worker:0"))
    assert logs.close()
    assert merged(rundir) == [
        "2026-09-21T14:13:20.250 worker:1 | whole",
        "2026-09-21T14:13:20.500 worker:0 | first, in two pieces",
        "2026-09-21T14:13:20.500 worker:0 | ",
        "2026-09-21T14:13:21.000 worker:0 | rest",
    ]
    assert rundir.log_file("worker:0").read_bytes() == b"first, in two pieces\n\nrest"


def test_the_same_lines_come_out_however_the_bytes_are_cut():
    rng = random.Random(1)
    text = b"".join(rng.randbytes(rng.choice((0, 3, 40, 200))).replace(b"\n", b"") + b"\n" for _ in range(300))
    # What is longer than 100 bytes is cut, whether it came at once or in pieces.
    whole = Lines(longest_bytes=100).feed("worker:0", text)
    assert whole.count(b"\n") == 300
    for most in (1, 7, 150, 4000):
        lines, start, got = Lines(longest_bytes=100), 0, b""
        while start < len(text):
            step = rng.randint(1, most)
            got += lines.feed("worker:0", text[start : start + step])
            start += step
        assert got == whole


def test_ten_megabytes_on_one_line_are_whole_in_their_log_and_cut_in_the_merged_one(rundir, logs):
    line = random.Random(2).randbytes(10_000_000).replace(b"\n", b" ")
    for start in range(0, len(line), 65536):
        logs.output(T, "worker:0", line[start : start + 65536])
    logs.output(T, "worker:0", b"\nnext")
    assert logs.close()
    assert rundir.log_file("worker:0").read_bytes() == line + b"\nnext"
    first, second = rundir.merged_log.read_bytes().splitlines(keepends=True)[0], merged(rundir)[-1]
    assert len(rundir.merged_log.read_bytes()) < LONGEST_LINE_BYTES + 300
    assert b"[distrain: cut at 64 KiB; whole in logs/worker-0.log]\n" in rundir.merged_log.read_bytes()
    assert first.startswith(b"2026-09-21T14:13:20.000 worker:0 | " + line[:20].split(b"\r")[0][:5])
    assert second.endswith("worker:0 | next")


def test_two_tasks_with_200_000_lines_each_lose_no_byte(rundir, logs):
    texts = {
        f"worker:{i}": b"".join(b"worker %d says %d \xff\xfe\r\n" % (i, n) for n in range(200_000)) + b"no newline"
        for i in (0, 1)
    }
    rng = random.Random(3)
    positions = dict.fromkeys(texts, 0)
    while any(positions[task] < len(text) for task, text in texts.items()):
        task = rng.choice(list(texts))
        step = rng.randint(1, 100_000)
        if chunk := texts[task][positions[task] : positions[task] + step]:
            logs.output(T, task, chunk)
        positions[task] += step
    assert logs.close()
    lines = rundir.merged_log.read_bytes().split(b"\n")
    for task, text in texts.items():
        assert rundir.log_file(task).read_bytes() == text
        prefix = f"2026-09-21T14:13:20.000 {task} | ".encode()
        assert [line.removeprefix(prefix) for line in lines if line.startswith(prefix)] == text.split(b"\n")[:-1]
    assert len(lines) == 400_000 + 2 + 1


def test_a_line_stands_between_attempts(rundir, logs):
    logs.event(Event(T, "attempt_started", 1))
    logs.output(T, "worker:0", b"one\ncut off")
    logs.event(Event(T + 2, "attempt_started", 2))
    logs.output(T + 3, "worker:0", b"two\n")
    assert logs.close()
    assert rundir.log_file("worker:0").read_text() == (
        "one\ncut off\n---- 2026-09-21T14:13:22.000 attempt 2 ----\ntwo\n"
    )
    assert merged(rundir)[2] == "2026-09-21T14:13:22.000 distrain | ---- 2026-09-21T14:13:22.000 attempt 2 ----"


def test_what_was_printed_is_visible_to_tail_after_a_tick(rundir, logs):
    logs.output(T, "worker:0", b"step 1\n")
    logs.tick(T)
    assert rundir.log_file("worker:0").read_bytes() == b"step 1\n"
    assert len(merged(rundir)) == 1
    logs.output(T, "worker:0", b"step 2\n")
    logs.tick(T + 0.25)
    assert rundir.log_file("worker:0").read_bytes() == b"step 1\nstep 2\n"
    logs.close()


def test_log_files_are_private(rundir, logs):
    before = os.umask(0)
    try:
        logs.output(T, "worker:0", b"secret\n")
        logs.close()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in rundir.logs.iterdir()} == {0o600}


class FailingDisk:
    """`os.write` that takes only `room` bytes before it says that the disk is full."""

    def __init__(self, monkeypatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._write(fd, data[: self.room])
        self.room -= taken
        return taken


def test_a_disk_that_is_full_for_a_moment_costs_no_byte(rundir, logs, warnings, monkeypatch):
    disk = FailingDisk(monkeypatch, room=10)
    for n in range(20):
        logs.output(T, "worker:0", b"line %d\n" % n)
        logs.tick(T + n)
    disk.room = 1_000_000
    assert logs.close()
    assert rundir.log_file("worker:0").read_bytes() == b"".join(b"line %d\n" % n for n in range(20))
    assert len(warnings) == 1
    assert warnings[0].startswith("cannot write /")
    assert "No space left on device; the run goes on" in warnings[0]


def test_a_disk_that_stays_full_is_told_once_and_marked_where_bytes_are_missing(rundir, logs, warnings, monkeypatch):
    disk = FailingDisk(monkeypatch, room=0)
    for n in range(40):
        logs.output(T, "worker:0", b"x" * 16_383 + b"\n")
        logs.tick(T + n)
    assert len(warnings) == 1
    disk.room = 100_000_000
    logs.tick(T + 50)
    logs.output(T, "worker:0", b"after\n")
    logs.event(Event(T + 60, "run_ended"))
    assert not logs.close()
    text = rundir.log_file("worker:0").read_bytes()
    kept = text.count(b"x" * 16_383)
    assert 0 < kept < 40
    lost = 16_384 * (40 - kept)
    assert text.endswith(f"\n[distrain: {lost:,} bytes are missing here: the disk did not take them]\nafter\n".encode())
    assert len(warnings) == 2
    assert "bytes of output are missing in" in warnings[1]


def test_a_removed_directory_is_told_and_begun_anew(rundir, logs, warnings):
    logs.output(T, "worker:0", b"before\n")
    logs.tick(T)
    shutil.rmtree(rundir.path)
    logs.output(T, "worker:0", b"after\n")
    logs.tick(T + 1)
    assert rundir.log_file("worker:0").read_bytes() == b"after\n"
    assert len(warnings) == 1
    assert "somebody removed" in warnings[0]
    logs.close()


def test_trouble_with_the_files_reaches_the_terminal_and_the_events(rundir, tmp_path):
    with open(tmp_path / "shown", "w+") as stream:
        sinks = open_sinks(rundir, plain=True, stream=stream)
        rundir.logs.rmdir()
        rundir.logs.write_text("in the way")
        for sink in sinks:
            sink.output(T, "worker:0", b"hello\n")
        for sink in sinks:
            sink.tick(T)
        assert [sink.close() for sink in sinks] == [False, True, True]
        shown = (tmp_path / "shown").read_text()
    assert "worker:0 | hello\n" in shown
    assert shown.count("distrain | warning: cannot write") == 1
    assert "bytes of output are missing" in shown
    events = [json.loads(line) for line in rundir.events_file.read_text().splitlines()]
    assert [event["level"] for event in events] == ["warning", "warning"]


def test_every_event_is_a_line_and_metrics_have_a_file_of_their_own(rundir, warnings):
    records = Records(rundir, warnings.append)
    records.event(Event(T, "usage", 1, "worker:0", "local", {"memory_bytes": 5, "cpu_s": 0.1}))
    numbers = {"epoch": 1, "step": 7, "split": "train", "metrics": {"loss": float("inf")}, "examples_per_s": 9.5}
    records.event(Event(T + 1, "metrics", 2, "worker:0", "local", {**numbers, "more": "é\ud800"}))
    records.tick(T)
    events = [json.loads(line) for line in rundir.events_file.read_text().splitlines()]
    head = {"time": T, "kind": "usage", "task": "worker:0", "host": "local", "attempt": 1}
    assert events[0] == {**head, "memory_bytes": 5, "cpu_s": 0.1}
    assert events[1]["kind"] == "metrics"
    assert json.loads(rundir.metrics_file.read_text()) == {
        "time": T + 1,
        "attempt": 2,
        **numbers,
        "metrics": {"loss": "Infinity"},
    }
    assert records.close()
    assert warnings == []


def test_records_hold_whole_lines_only_whatever_the_disk_does(rundir, warnings, monkeypatch):
    records = Records(rundir, warnings.append)
    disk = FailingDisk(monkeypatch, room=33)
    for n in range(4000):
        records.event(Event(T + n, "note", data={"message": "m" * 200, "n": n}))
        records.tick(T + n)
        if n == 3000:
            disk.room = 10_000_000
    assert not records.close()
    numbers = [json.loads(line)["n"] for line in rundir.events_file.read_text().splitlines()]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 3999
    assert 500 < len(numbers) < 4000
    assert len(warnings) == 1
