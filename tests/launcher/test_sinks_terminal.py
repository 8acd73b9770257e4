"""The sink for people never waits for its reader, never grows, and says what it left out."""

import fcntl
import os
import re
import resource
import threading
import time
from pathlib import Path

import pytest

from distrain.launcher.events import Event
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks import open_sinks
from distrain.launcher.sinks.plain import PlainFace
from distrain.launcher.sinks.terminal import Entry, Queue, Terminal

T = 1_790_000_000.0
MIB = 1024 * 1024


def started(tasks: int = 2) -> Event:
    names = [[f"worker:{i}", "local"] for i in range(tasks)]
    data = {"run": "r", "run_dir": "/r", "name": "r", "strategy": "Mirrored", "tasks": names, "epochs": 1, "argv": []}
    return Event(T, "run_started", data=data)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Pty:
    """A terminal whose other end reads only when asked to."""

    def __init__(self) -> None:
        self.reader, ours = os.openpty()
        self.stream = os.fdopen(ours, "w")

    def read_all(self, until: threading.Thread) -> bytes:
        """Everything until the thread that writes has ended."""
        os.set_blocking(self.reader, False)
        got, deadline = b"", time.monotonic() + 60
        while time.monotonic() < deadline:
            writing = until.is_alive()
            try:
                got += os.read(self.reader, 65536)
            except BlockingIOError:
                if not writing:
                    return got
                time.sleep(0.001)
        raise AssertionError("the writer did not end")

    def close(self) -> None:
        os.close(self.reader)
        self.stream.close()


@pytest.fixture
def pty(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    pty = Pty()
    yield pty
    pty.close()


@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_that_nobody_reads_costs_neither_time_nor_memory(tmp_path, pty, plain):
    rundir = RunDir.create(tmp_path, "run", now=T)
    sinks = open_sinks(rundir, plain=plain, stream=pty.stream)
    terminal = sinks[-1]
    assert isinstance(terminal, Terminal)
    terminal._patience_s = 0.3
    progress = {"epoch": 1, "step": 1, "examples_per_s": 1.0, "step_s": 0.1}
    terminal.event(started())
    line = b"x" * 63 + b"\n"

    def feed(mebibytes: int) -> float:
        slowest = 0.0
        for n in range(mebibytes * 16):
            before = time.perf_counter()
            terminal.output(T, "worker:0", bytes(bytearray(line * 1024)))
            terminal.event(Event(T + n, "progress", 1, "worker:0", data=progress))
            terminal.event(Event(T + n, "note", 1, "worker:0", data={"level": "info", "message": "still here"}))
            slowest = max(slowest, time.perf_counter() - before)
        return slowest

    feed(8)
    before = resident_bytes()
    slowest_s = feed(200)
    assert resident_bytes() - before < 8 * MIB
    assert slowest_s < 1.0
    begun = time.monotonic()
    assert [sink.close() for sink in sinks] == [True, True, False]
    assert 0.3 <= time.monotonic() - begun < 3.0


def test_a_terminal_that_was_stopped_goes_on_where_it_can_and_counts_the_rest(pty):
    terminal = Terminal(pty.stream, PlainFace(), place="runs/r", limit_bytes=64 * 1024)
    for n in range(20_000):
        terminal.output(T, f"worker:{n % 2}", b"line %d\n" % n)
        if n == 10_000:
            terminal.event(Event(T, "note", data={"level": "warning", "message": "remember me"}))
    reading = threading.Thread(target=terminal.close)
    reading.start()
    text = pty.read_all(terminal._thread).decode()
    reading.join()
    assert terminal.close()
    shown = [int(n) for n in re.findall(r"\| line (\d+)\r", text)]
    counted = [int(n.replace(",", "")) for n in re.findall(r"… ([\d,]+) lines not shown; they are in logs/", text)]
    assert len(shown) + sum(counted) == 20_000
    assert sum(counted) > 10_000
    assert shown == sorted(shown)
    assert shown[-1] == 19_999
    assert "distrain | warning: remember me" in text


def test_a_pipe_that_is_read_gets_every_line(tmp_path):
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    terminal = Terminal(stream, PlainFace(), place="runs/r")
    got: list[bytes] = []

    def read() -> None:
        while data := os.read(reader, 65536):
            got.append(data)

    reading = threading.Thread(target=read)
    reading.start()
    text = b"".join(b"line %d\n" % n for n in range(200_000))
    for start in range(0, len(text), 50_000):
        terminal.output(T, "worker:0", text[start : start + 50_000])
    assert terminal.close()
    stream.close()
    reading.join()
    os.close(reader)
    lines = b"".join(got).splitlines()
    assert len(lines) == 200_000
    assert lines[-1].endswith(b"worker:0 | line 199999")


def test_closing_waits_for_a_reader_that_is_slow_but_alive():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writer, "w")
    terminal = Terminal(stream, PlainFace(), place="runs/r", patience_s=0.4)
    terminal.output(T, "worker:0", (b"y" * 99 + b"\n") * 5000)
    total = 0

    def read() -> None:
        nonlocal total
        while data := os.read(reader, 30_000):
            total += len(data)
            time.sleep(0.01)

    reading = threading.Thread(target=read)
    reading.start()
    assert terminal.close()
    stream.close()
    reading.join()
    os.close(reader)
    assert total == 5000 * len("14:13:20.000 worker:0 | " + "y" * 99 + "\n")


@pytest.mark.parametrize("plain", [True, False])
def test_a_reader_that_is_gone_ends_nothing_else(tmp_path, plain):
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    sinks = open_sinks(RunDir.create(tmp_path, "run", now=T), plain=plain, stream=stream)
    for _ in range(100):
        for sink in sinks:
            sink.output(T, "worker:0", b"z" * 65_535 + b"\n")
    assert [sink.close() for sink in sinks] == [True, True, False]
    stream.close()


def test_a_terminal_that_was_made_non_blocking_is_waited_for_by_the_thread(pty):
    os.set_blocking(pty.stream.fileno(), False)
    terminal = Terminal(pty.stream, PlainFace(), place="runs/r")
    text = b"".join(b"line %d\n" % n for n in range(5000))
    terminal.output(T, "worker:0", text)
    closing = threading.Thread(target=terminal.close)
    closing.start()
    shown = pty.read_all(terminal._thread)
    closing.join()
    assert shown.count(b"\n") == 5000


def test_the_queue_drops_the_oldest_output_and_keeps_words():
    queue = Queue(limit_bytes=10_000)
    for n in range(100):
        queue.put(Entry(T, "worker:0", b"%d\n" % n * 250))
        if n % 50 == 0:
            queue.put(Entry(T, "distrain", b"words %d\n" % n, words=True))
        assert queue.held_bytes <= 10_000
    entries, dropped = queue.take(1_000_000)
    assert [entry.text for entry in entries if entry.words] == [b"words 0\n", b"words 50\n"]
    output = [entry.text for entry in entries if not entry.words]
    assert dropped == 250 * (100 - len(output))
    assert output[-1] == b"99\n" * 250
    assert (queue.held_bytes, len(queue)) == (0, 0)


def test_words_alone_cannot_fill_the_memory():
    queue = Queue(limit_bytes=10_000)
    for n in range(1000):
        queue.put(Entry(T, "distrain", b"words %d\n" % n, words=True))
    assert queue.held_bytes <= 10_000
    entries, dropped = queue.take(1_000_000)
    assert len(entries) + dropped == 1000
