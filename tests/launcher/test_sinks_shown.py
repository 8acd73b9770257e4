"""What people see: histories of events replayed with fixed times, and the text that comes out, word for word."""

import io
import itertools
import os
import re

import pytest
from rich.console import Console

from distrain.launcher.events import Event
from distrain.launcher.sinks.live import LiveFace
from distrain.launcher.sinks.panel import panel
from distrain.launcher.sinks.plain import PlainFace
from distrain.launcher.sinks.terminal import Terminal
from distrain.launcher.sinks.view import View
from distrain.launcher.sinks.words import Narrator, duration, failure_sentence, number, size

pytestmark = pytest.mark.usefixtures("utc")

T = 1_790_000_000.0
RUN = "mnist-20260921-141320-abcd"


def opening(tasks: int = 2) -> list[Event]:
    names = [f"worker:{i}" for i in range(tasks)]
    started = {
        "run": RUN,
        "run_dir": f"/home/me/runs/{RUN}",
        "name": "mnist",
        "strategy": "MultiWorkerMirrored",
        "tasks": [[name, "local"] for name in names],
        "epochs": 2,
        "argv": ["distrain"],
    }
    host = {"hostname": "box", "cores": 2, "memory_bytes": 8 * 2**30, "python": "3.11.2"}
    return [
        Event(T, "run_started", 0, data=started),
        Event(T + 0.5, "host_opened", 0, host="local", data=host),
        Event(T + 0.5, "host_prepared", 0, host="local"),
        Event(T + 0.5, "attempt_started", 1),
        *(Event(T + 0.6, "task_started", 1, name, "local", {"pid": 7}) for name in names),
        *(Event(T + 1, "phase", 1, name, "local", {"phase": "connecting"}) for name in names),
    ]


def ready(tasks: int = 2) -> list[Event]:
    versions = {"python": "3.11.2", "tensorflow": "2.21.0", "keras": "3.15.1"}
    started = {"epochs": 2, "steps_per_epoch": 10, "first_step": 0, "batch_size": 128}
    examples = {"train_examples": 1280, "validation_examples": 200}
    return [
        *(Event(T + 4 + i, "ready", 1, f"worker:{i}", "local", {"versions": versions}) for i in range(tasks)),
        Event(T + 3 + tasks, "started", 1, "worker:0", "local", {**started, **examples}),
    ]


def step(n: int, time: float, tasks: int = 2, split: str | None = "train") -> list[Event]:
    epoch = (n - 1) // 10 + 1
    figures = {"epoch": epoch, "step": n, "split": split, "metrics": {"loss": 2 / n, "accuracy": 1 - 1 / n}}
    metrics = [Event(time, "metrics", 1, "worker:0", "local", {**figures, "examples_per_s": 1000.0})] if split else []
    progress = {"epoch": epoch, "step": n, "examples_per_s": 1000.0, "step_s": 0.128}
    return metrics + [Event(time, "progress", 1, f"worker:{i}", "local", progress) for i in range(tasks)]


def summary(state: str, first_failure: dict | None = None, **changes) -> Event:
    data = {
        "format": 1,
        "run": RUN,
        "name": "mnist",
        "state": state,
        "attempts": 1,
        "first_failure": first_failure,
        "metrics": {"train": {"loss": 0.1, "accuracy": 0.95}, "validation": {"loss": 0.1234567, "accuracy": 0.94}},
        "epochs": 2,
        "steps": 20,
        "examples_per_s": 1000.4,
        "timings": {"to_ready_s": 5.0, "to_first_step_s": 6.0, "total_s": 75.2, "recoveries": []},
        "versions": {},
        **changes,
    }
    return Event(T + 40, "run_ended", 1, data=data)


FAILURE = {
    "task": "worker:1",
    "host": "local",
    "attempt": 1,
    "kind": "exception",
    "exit_code": 1,
    "signal": None,
    "message": "ValueError: bad \x1b[2Jshape",
    "log_tail": [
        "I0000 00:00:1.2    7 cudart_stub.cc:31] Could not find cuda drivers on your machine",
        "Traceback (most recent call last):",
        "ValueError: bad shape",
    ],
    "where": "train.py:12",
}


def shown_plain(*history: Event | tuple[float, str, bytes]) -> str:
    """Through the whole sink, thread included, to a stream."""
    stream = io.StringIO()
    sink = Terminal(stream, PlainFace(), place=f"runs/{RUN}")
    for item in history:
        if isinstance(item, Event):
            sink.event(item)
        else:
            sink.output(*item)
    assert sink.close()
    return stream.getvalue()


def test_a_run_in_plain_lines():
    notice = b"I0000 00:00:1.2    7 cudart_stub.cc:31] Could not find cuda drivers on your machine\n"
    validation = {"epoch": 1, "step": 10, "split": "validation", "metrics": {"loss": 0.3}, "examples_per_s": None}
    text = shown_plain(
        *opening(),
        (T + 1.0014, "worker:1", notice + b"hello "),
        (T + 1.25, "worker:1", b"\x1b[31mworld\x1b[0m\n\xff\n10%"),
        *ready(),
        *step(1, T + 6),
        *step(5, T + 8),
        *step(10, T + 10.5),
        Event(T + 11, "metrics", 1, "worker:0", "local", validation),
        Event(T + 11, "checkpoint", 1, "worker:0", "local", {"path": "checkpoints/10", "step": 10, "seconds": 0.25}),
        (T + 11.5, "worker:1", b"\r20%\r30%\n"),
        *step(13, T + 20.4),
        *step(14, T + 20.5),
        *step(15, T + 20.6),
        Event(T + 21, "note", 1, "worker:0", "local", {"level": "warning", "message": "slow\ndisk"}),
        *step(20, T + 30),
        Event(T + 31, "model", 1, "worker:0", "local", {"path": "model.keras"}),
        (T + 32, "worker:0", b"bye"),
        Event(T + 32.5, "task_exited", 1, "worker:0", "local", {"exit_code": 0, "signal": None, "expected": True}),
        summary("succeeded"),
    )
    assert text == (
        f"14:13:20.000 distrain | {RUN}: MultiWorkerMirrored, 2 tasks, 2 epochs\n"
        f"14:13:20.000 distrain | everything is recorded in /home/me/runs/{RUN}\n"
        "14:13:20.500 distrain | local: 2 cores, 8.0 GiB of memory, Python 3.11.2\n"
        "14:13:21.250 worker:1 | hello world\n"
        "14:13:21.250 worker:1 | \ufffd\n"
        "14:13:25.000 distrain | all 2 tasks are ready after 5.0 s · TensorFlow 2.21.0 · Keras 3.15.1\n"
        "14:13:25.000 distrain | TensorFlow start-up notices: 1 line from 1 task folded, in logs/\n"
        "14:13:25.000 distrain | training: 2 epochs of 10 steps · 128 examples a step · 1,280 to train on"
        " · 200 to validate on\n"
        "14:13:30.500 distrain | epoch 1/2 · step 10/20 · loss 0.2000 · accuracy 0.9000 · 1,000 examples/s"
        " · 0:05 left\n"
        "14:13:31.000 distrain | epoch 1/2 · validation loss 0.3000\n"
        "14:13:31.000 distrain | checkpoint of step 10 written in 0.2 s: checkpoints/10\n"
        "14:13:31.500 worker:1 | 30%\n"
        "14:13:40.500 distrain | epoch 2/2 · step 14/20 · loss 0.1429 · accuracy 0.9286 · 1,000 examples/s"
        " · 0:07 left\n"
        "14:13:41.000 distrain | warning: worker:0: slow\n"
        "14:13:41.000 distrain | disk\n"
        "14:13:50.000 distrain | epoch 2/2 · step 20/20 · loss 0.1000 · accuracy 0.9500 · 1,000 examples/s\n"
        "14:13:51.000 distrain | model written: model.keras\n"
        "14:13:52.500 worker:0 | bye\n"
        "\n"
        f"succeeded  {RUN}\n"
        "\n"
        "  epochs 2/2 · steps 20/20 · time 1:15 · 1,000 examples/s\n"
        "\n"
        "                loss  accuracy\n"
        "  train       0.1000    0.9500\n"
        "  validation  0.1235    0.9400\n"
        "\n"
        f"  model    runs/{RUN}/model.keras\n"
        f"  metrics  runs/{RUN}/metrics.jsonl\n"
        f"  logs     runs/{RUN}/logs/\n"
    )


def test_a_failure_names_the_first_and_counts_what_followed():
    peers = [Event(T + 8, "consequence", 1, f"worker:{i}", "local", {"message": "Unavailable"}) for i in range(9)]
    text = shown_plain(
        *opening(9),
        Event(T + 7, "task_failed", 1, "worker:1", "local", FAILURE),
        *peers,
        Event(T + 8, "stopping", 1, data={"reason": "worker:1 failed", "grace_s": 5.0}),
        summary("failed", FAILURE, metrics={"train": {}, "validation": {}}, epochs=0, steps=0, examples_per_s=None),
    )
    account = text.split("stopping: ")[1]
    assert "14:13:27.000 distrain | worker:1: ValueError: bad shape (train.py:12)\n" in text
    assert account == (
        "worker:1 failed\n"
        "\n"
        f"failed  {RUN}\n"
        "\n"
        "  worker:1: ValueError: bad shape (train.py:12)\n"
        "\n"
        "  its last lines:\n"
        "  | Traceback (most recent call last):\n"
        "  | ValueError: bad shape\n"
        "\n"
        "  8 more failed as a consequence: worker:0, worker:2, worker:3, worker:4, worker:5, worker:6 and 2 more\n"
        "\n"
        "  epochs 0/2 · steps 0 · time 1:15\n"
        "\n"
        f"  log      runs/{RUN}/logs/worker-1.log\n"
        f"  logs     runs/{RUN}/logs/\n"
    )


def test_a_mistake_in_the_job_is_told_by_its_sentence_alone():
    failure = {**FAILURE, "kind": "job", "message": "the model has 3 classes, the data 10; change one", "where": None}
    text = shown_plain(*opening(), summary("failed", failure))
    assert "  worker:1: the model has 3 classes, the data 10; change one\n\n  epochs" in text


def test_a_host_that_fails_has_no_log_to_open():
    failure = {**FAILURE, "task": None, "host": "box7", "message": "refuses the key", "log_tail": [], "where": None}
    text = shown_plain(*opening(), summary("failed", failure))
    assert "\n  box7: refuses the key\n" in text
    assert "  log  " not in text


def test_a_run_without_an_end_shows_what_it_had():
    assert shown_plain((T, "worker:0", b"half")).endswith("worker:0 | half\n")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((number(0.0), number(0.12345), number(1e-5), number(12345.6)), ("0.0000", "0.1235", "1e-05", "1.235e+04")),
        ((number(float("nan")), number(-float("inf"))), ("nan", "-inf")),
        ((number(None), number("[0.1 0.2]")), ("nan", "[0.1 0.2]")),
        ((size(0), size(999), size(1000), size(850_000_000)), ("0 bytes", "999 bytes", "1 KiB", "811 MiB")),
        ((size(8e9), size(2e12), size(2e14)), ("7.5 GiB", "1.8 TiB", "181.9 TiB")),
        ((duration(0.4), duration(59.6), duration(3723)), ("0:00", "1:00", "1:02:03")),
        ((failure_sentence({"task": "ps:0", "host": "box", "message": "gone"}),), ("ps:0 on box: gone",)),
    ],
)
def test_figures_in_words(said, words):
    assert said == words


def test_downloads_are_told_now_and_then_and_when_done():
    narrator, view = Narrator(), View()

    def told(at: float, done: int) -> tuple[str, ...]:
        data = {"name": "mnist", "done_bytes": done, "total_bytes": 11_000_000}
        return narrator.tell(Event(T + at, "download", 1, "worker:0", data=data), view)

    assert told(0, 1_000_000) == ("downloading mnist: 977 KiB of 10 MiB",)
    assert told(5, 2_000_000) == ()
    assert told(6, 11_000_000) == ("downloading mnist: 10 MiB of 10 MiB",)


def view_of(*events: Event) -> View:
    view = View()
    for event in events:
        view = view.after(event)
    return view


def test_time_left_counts_from_the_first_progress_of_the_attempt():
    view = view_of(*opening(), *ready(), *step(1, T + 30))
    assert view.left_s(T + 30) is None
    view = view_of(*opening(), *ready(), *step(1, T + 30), *step(11, T + 35))
    assert view.left_s(T + 35) == pytest.approx(4.5)
    assert view.left_s(T + 37) == pytest.approx(2.5)
    assert view.left_s(T + 99) == 0
    assert view.after(Event(T + 100, "attempt_started", 2)).left_s(T + 100) is None


def test_tasks_share_what_their_cluster_does():
    view = view_of(*opening(), *ready(), *step(1, T + 6), *step(2, T + 7))
    assert [task.examples_per_s for task in view.tasks.values()] == [500.0, 500.0]
    assert view.examples_per_s == 1000.0


def picture(view: View, width: int, rows: int, now: float = T + 20) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(panel(view, width=width, rows=rows, now=now))
    lines = console.export_text().splitlines()
    assert len(lines) <= rows
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def training(tasks: int = 2) -> View:
    usage = [
        Event(T + 9, "usage", 1, f"worker:{i}", data={"memory_bytes": 850_000_000, "cpu_s": 9.0}) for i in range(tasks)
    ]
    data = {"epoch": 1, "step": 10, "split": "validation", "metrics": {"loss": 0.3, "accuracy": 0.9}}
    validation = Event(T + 18, "metrics", 1, "worker:0", data={**data, "examples_per_s": None})
    return view_of(*opening(tasks), *ready(tasks), *usage, *step(1, T + 9, tasks), *step(12, T + 20, tasks), validation)


def test_the_panel_on_a_usual_terminal():
    assert picture(training(), 79, 14) == [
        "─" * 79,
        "mnist · MultiWorkerMirrored · epoch 2/2                        0:20 · 0:08 left",
        "━" * 36 + "╸" + " " * 26 + "60% · step 12/20",
        "loss 0.1667 · accuracy 0.9167 · 1,000 examples/s",
        "validation loss 0.3000 · accuracy 0.9000",
        "task      state                   step  examples/s    memory",
        "worker:0  training                  12         500   811 MiB",
        "worker:1  training                  12         500   811 MiB",
    ]


def test_the_panel_on_a_wide_terminal_has_the_figures_on_one_line():
    assert "loss 0.1667 · accuracy 0.9167 · 1,000 examples/s · validation loss 0.3000 · accuracy 0.9000" in picture(
        training(), 119, 24
    )


def test_the_panel_on_a_narrow_and_short_terminal():
    assert picture(training(8), 49, 9) == [
        "─" * 49,
        "mnist · epoch 2/2                0:20 · 0:08 left",
        "━" * 18 + "╸" + " " * 14 + "60% · step 12/20",
        "loss 0.1667 · accuracy 0.9167 · 1,000 examples/s…",
        "task      state         step    memory",
        "worker:0  training        12   811 MiB",
        "worker:1  training        12   811 MiB",
        "worker:2  training        12   811 MiB",
        "… and 5 more: 5 training",
    ]


@pytest.mark.parametrize("width", [10, 20, 33, 55, 56, 79, 200])
@pytest.mark.parametrize("rows", [3, 4, 5, 6, 7, 12, 60])
def test_the_panel_fits_whatever_the_size(width, rows):
    for view in (view_of(*opening(50)), training(50), training(1), view_of(*opening(1), summary("failed"))):
        assert len(picture(view, width, rows)) >= 3


def test_of_many_tasks_those_that_differ_are_shown():
    history = [
        Event(T + 20, "phase", 1, "worker:7", data={"phase": "saving"}),
        Event(T + 20, "task_exited", 1, "worker:31", data={"exit_code": None, "signal": "SIGKILL", "expected": False}),
    ]
    view = training(50)
    for event in history:
        view = view.after(event)
    rows = picture(view, 79, 9)
    assert [row.split()[:2] for row in rows if row.startswith("worker")] == [
        ["worker:0", "training"],
        ["worker:7", "saving"],
        ["worker:31", "SIGKILL"],
    ]
    assert rows[-1] == "… and 47 more: 47 training"


def test_before_the_first_step_the_panel_says_what_is_waited_for():
    assert "0 of 3 ready · 3 connecting" in picture(view_of(*opening(3)), 79, 14)
    assert "the first step is under way" in picture(view_of(*opening(3), *ready(3)), 79, 14)
    stopping = view_of(*opening(3), Event(T, "stopping", 1, data={"reason": "worker:1 failed", "grace_s": 5.0}))
    assert "stopping: worker:1 failed" in picture(stopping, 79, 14)


class Screen:
    """Enough of a terminal to see what a face leaves on it: newlines, up, erase below, colours, wrapping."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows, self.row = columns, [""], 0

    def write(self, data: bytes) -> None:
        for piece in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", data.decode()):
            if piece == "\n":
                self.row += 1
                self.rows[self.row :] = self.rows[self.row :] or [""]
            elif up := re.fullmatch(r"\x1b\[(\d+)A", piece):
                self.row -= int(up[1])
                assert self.row >= 0
            elif piece == "\x1b[J":
                del self.rows[self.row + 1 :]
                self.rows[self.row] = ""
            elif piece[0] not in "\x1b\r":
                assert self.rows[self.row] == "", "written over what stood there"
                self.rows[self.row] = piece
            else:
                assert piece == "\r" or re.fullmatch(r"\x1b\[\?2026[hl]", piece)

    def narrow(self, columns: int) -> None:
        """As terminals do that reflow: rows that no longer fit are wrapped, and the cursor stays with its text."""
        wrapped = []
        for at, row in enumerate(self.rows):
            if at == self.row:
                self.row = len(wrapped)
            wrapped += [row[start : start + columns] for start in range(0, len(row), columns)] or [""]
        self.columns, self.rows = columns, wrapped


@pytest.fixture
def no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def test_the_live_view_scrolls_lines_above_one_panel(no_colour):
    size = [os.terminal_size((80, 24))]
    ticks = itertools.count()
    face = LiveFace(lambda: size[0], now=lambda: T + 20 + next(ticks))
    screen, view = Screen(80), training()
    assert face.draw(b"early\n", View()).replace(b"\x1b[?2026h", b"").replace(b"\x1b[?2026l", b"") == b"early\n"
    for n in range(3):
        screen.write(face.draw(b"line %d\n" % n, view))
    assert screen.rows[:4] == ["line 0", "line 1", "line 2", "─" * 79]
    assert sum("worker:0" in row for row in screen.rows) == 1
    assert screen.rows[screen.row] == ""
    assert screen.row == len(screen.rows) - 1

    screen.narrow(40)
    size[0] = os.terminal_size((40, 12))
    screen.write(face.draw(b"line 3\n", view))
    assert screen.rows[:5] == ["line 0", "line 1", "line 2", "line 3", "─" * 39]
    assert sum("worker:0" in row for row in screen.rows) == 1

    screen.write(face.last(b"line 4\n", ("succeeded  run", "", "  logs  x")))
    assert screen.rows == [*(f"line {n}" for n in range(5)), "", "succeeded  run", "", "  logs  x", ""]


def test_colour_is_left_out_where_it_is_not_wanted(no_colour):
    face = LiveFace(lambda: os.terminal_size((80, 24)), now=lambda: T + 20)
    text = face.prefix(T, "worker:0") + face.draw(b"", training()) + face.last(b"", ("failed  run",))
    assert face.prefix(T, "worker:0") == b"14:13:20 worker:0 | "
    assert not re.search(rb"\x1b\[[\d;]*m", text)


def test_colour_tells_tasks_apart(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    face = LiveFace(lambda: os.terminal_size((50, 24)), now=lambda: T + 20)
    first, second = face.prefix(T, "worker:0"), face.prefix(T, "worker:1")
    assert first == face.prefix(T + 1, "worker:0") != second.replace(b":1", b":0")
    assert re.sub(rb"\x1b\[[\d;]*m", b"", first) == b"worker:0 | "
    assert b"\x1b[1;31mfailed\x1b[0m  run\n" in face.last(b"", ("failed  run",))


def test_the_cursor_is_never_hidden():
    face = LiveFace(lambda: os.terminal_size((80, 24)), now=lambda: T + 20)
    assert b"\x1b[?25" not in face.draw(b"x\n", training()) + face.last(b"", ())


# ---- restarts


def restarting(**changes) -> list[Event]:
    """A worker is killed at step 15, and its attempt is followed by another from step 10 on."""
    killed = {"kind": "signal", "exit_code": None, "signal": "SIGKILL", "message": "killed by SIGKILL", "log_tail": []}
    told = {
        "cause": "crash",
        "next_attempt": 2,
        "from_step": 10,
        "checkpoint": "step-00000010",
        "wait_s": 0.75,
        "counted": True,
        "restarts": 1,
        "max": 3,
        "failed_at": T + 10,
        "detected_s": 0.002,
        "step": 15,
        "furthest": 15,
        "missing": [],
        **changes,
    }
    exited = {"exit_code": None, "signal": "SIGKILL"}
    return [
        Event(T + 10, "task_failed", 1, "worker:1", "local", {**FAILURE, **killed, "where": None}),
        Event(T + 10, "task_exited", 1, "worker:1", "local", {**exited, "expected": False}),
        Event(T + 10.1, "task_exited", 1, "worker:0", "local", {**exited, "expected": True}),
        Event(T + 10.25, "restarting", 1, "worker:1", "local", told),
    ]


def again() -> list[Event]:
    names = ("worker:0", "worker:1")
    return [
        Event(T + 11, "attempt_started", 2, data={"from_step": 10, "checkpoint": "step-00000010"}),
        *(Event(T + 11.1, "task_started", 2, name, "local", {"pid": 8}) for name in names),
    ]


def words(*events: Event, progress_every_s: float | None = None) -> list[str]:
    """distrain's own, from the failure on."""
    narrator, view, lines = Narrator(progress_every_s), View(), []
    for event in events:
        view = view.after(event)
        lines += narrator.tell(event, view)
    first = next(index for index, line in enumerate(lines) if line.startswith("worker:1: killed"))
    return lines[first:]


def test_a_restart_is_told_from_its_cause_to_where_it_has_caught_up():
    history = [*opening(), *ready(), *step(15, T + 9), *restarting(), *again()]
    later = [Event(T + 13 + n / 10, *event_of(event)) for n, event in enumerate([*step(12, T), *step(15, T)])]
    assert words(*history, *later)[:4] == [
        "worker:1: killed by SIGKILL",
        "restarting after the crash of worker:1: attempt 2 goes on from step 10 in 0.8 s (restart 1 of at most 3)",
        "attempt 2: every task starts again, from step 10",
        "attempt 2 has caught up: step 15 again 3.4 s after the crash of worker:1",
    ]


def event_of(event: Event) -> tuple:
    """The same in the second attempt."""
    return event.kind, 2, event.task, event.host, event.data


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"from_step": 0, "checkpoint": None, "wait_s": 0.0},
            "restarting after the crash of worker:1: attempt 2 goes on from the beginning (restart 1 of at most 3)",
        ),
        (
            {"cause": "preempted", "counted": False, "wait_s": 0.0},
            "restarting after worker:1 was asked to leave: attempt 2 goes on from step 10 (not counted)",
        ),
        (
            {"cause": "hang", "missing": ["b", "c"]},
            "restarting after the hang of worker:1: attempt 2 goes on from step 10 in 0.8 s "
            "when b and c can be used again (restart 1 of at most 3)",
        ),
    ],
)
def test_when_and_from_where_it_goes_on(changes, sentence):
    assert words(*opening(), *ready(), *step(15, T + 9), *restarting(**changes))[1] == sentence


def test_other_news_of_recovery():
    history = [*opening(), *ready(), *step(15, T + 9)]
    respawned = {"cause": "crash", "message": "killed by SIGKILL", "signal": "SIGKILL", "exit_code": None}
    news = [
        Event(T + 10, "respawning", 1, "worker:1", "local", respawned),
        Event(T + 11, "straggler", 1, "worker:1", "b", {"ratio": 1.84}),
        Event(T + 12, "stacks", 1, "worker:0", "local", {"path": "stacks/attempt-1/worker-0.txt"}),
        Event(T + 12, "stacks", 1, "worker:1", "local", {"path": "stacks/attempt-1/worker-1.txt"}),
        Event(T + 13, "cluster_changed", 1, data={"tasks": [["worker:0", "a"]], "gone": ["b"]}),
        Event(T + 14, "cluster_changed", 1, data={"tasks": [["worker:0", "a"], ["worker:1", "b"]], "gone": []}),
    ]
    assert words(*history, *news) == [
        "worker:1: killed by SIGKILL; it is started again by itself, and the others go on",
        "warning: worker:1 on b takes 1.8 times as long for a step as the others",
        "where every task was is in stacks/attempt-1/",
        "going on without b: 1 task on 1 host",
        "every host is back: 2 tasks on 2 hosts",
    ]


def test_the_panel_between_two_attempts_and_while_it_catches_up():
    view = View()
    for event in [*opening(), *ready(), *step(15, T + 9), *restarting()]:
        view = view.after(event)
    assert "worker:1: crash · attempt 2 from step 10 in 1 s" in rendered(view, now=T + 10.3)
    assert "attempt 2 from step 10 now" in rendered(view, now=T + 11)
    for event in again():
        view = view.after(event)
    assert "attempt 2 from" not in rendered(view, now=T + 12)
    assert "0 of 2 ready · 2 starting" in rendered(view, now=T + 12)
    for event in step(12, T + 13):
        view = view.after(event)
    assert "catching up to step 15" in rendered(view, now=T + 13)
    for event in step(15, T + 14):
        view = view.after(event)
    assert "catching up" not in rendered(view, now=T + 14)


def test_the_panel_has_a_column_for_who_is_slow():
    view = View()
    for event in [*opening(), *ready()]:
        view = view.after(event)
    assert "pace" not in rendered(view, now=T + 6)
    for name, busy_s in (("worker:0", 0.1), ("worker:1", 0.21)):
        data = {"epoch": 1, "step": 3, "examples_per_s": 1000.0, "busy_s": busy_s}
        view = view.after(Event(T + 6, "progress", 1, name, "local", data))
    shown = rendered(view, now=T + 6)
    assert "pace" in shown
    assert "1.0x" in shown
    assert "2.1x" in shown


def test_the_account_tells_what_was_got_over():
    recovery = {"resumed_s": 2.94, "steps_lost": 5}
    failures = [{**FAILURE, "message": "killed by SIGKILL", "where": None, "attempt": n} for n in (1, 2)]
    timings = {"to_ready_s": 5.0, "to_first_step_s": 6.0, "total_s": 75.2, "recoveries": [recovery]}
    text = shown_plain(*opening(), summary("succeeded", attempts=2, failures=failures[:1], timings=timings))
    assert "  attempt 1: worker:1: killed by SIGKILL · trained again after 2.9 s · 5 steps done again\n" in text


def rendered(view: View, *, now: float) -> str:
    console = Console(file=io.StringIO(), width=110, color_system=None)
    console.print(panel(view, width=110, rows=12, now=now))
    return console.file.getvalue()
