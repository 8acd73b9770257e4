"""A task's life seen from outside, and what it hears, while its main thread is stuck where Python cannot reach it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distrain.worker.vitals import PULSE_INTERVAL_S, SAME_NOTICE_S

pytestmark = pytest.mark.processes

DEADLINE_S = 30.0

SETUP = """
import ctypes, os, signal, subprocess, sys, threading, time
from distrain.worker.telemetry import Events
from distrain.worker.vitals import Preempted, Vitals

events = Events.from_environment()
vitals = Vitals(events)
vitals.stacks()

def stuck():
    mutex = (ctypes.c_char * 64)()
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever: no signal gets a thread out of this

def tell_when_asked():
    while not vitals.asked_to_leave:
        time.sleep(0.01)
    events.send("asked")
"""


class Program:
    """A running program, with the descriptors that an agent would give it."""

    def __init__(self, argv: list[str], text: str = "") -> None:
        self._reader, events = os.pipe()
        self._stacks = os.memfd_create("stacks")
        self.events: list[dict[str, Any]] = []
        self._held = b""
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            env={**os.environ, "DISTRAIN_EVENTS_FD": str(events), "DISTRAIN_STACKS_FD": str(self._stacks)},
            pass_fds=[events, self._stacks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.close(events)
        with self.process.stdin as stdin:
            stdin.write(text.encode())
        self.process.stdin = None

    def of(self, kind: str) -> list[dict[str, Any]]:
        while select.select([self._reader], [], [], 0)[0] and (data := os.read(self._reader, 65536)):
            *lines, self._held = (self._held + data).split(b"\n")
            self.events += [json.loads(line) for line in lines]
        return [event for event in self.events if event["kind"] == kind]

    @property
    def stacks(self) -> str:
        return os.pread(self._stacks, 1 << 20, 0).decode()

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, (self.process.poll(), self.events, self.stacks)
            select.select([], [], [], 0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> str:
        """What it printed, when it has ended by itself."""
        return self.process.communicate(timeout=DEADLINE_S)[0].decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        os.close(self._reader)
        os.close(self._stacks)


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(body: str) -> Program:
        started.append(Program(["-c", SETUP + body]))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_pulses_go_on_whatever_the_main_thread_does(program: Any) -> None:
    began = time.monotonic()
    task = program("vitals.step = 7\nwith vitals.within('step'):\n    stuck()")
    task.until(lambda: len(task.of("pulse")) >= 3)
    assert time.monotonic() - began >= 2 * PULSE_INTERVAL_S, "one a second"
    first, second, third = task.of("pulse")[:3]
    assert [(pulse["step"], pulse["doing"]) for pulse in (first, second, third)] == [(7, "step")] * 3
    assert 0 < first["for_s"] < second["for_s"] < third["for_s"]


def test_a_pulse_says_what_the_main_thread_came_back_to(program: Any) -> None:
    task = program("with vitals.within('serving'):\n    with vitals.within('step'):\n        pass\n    stuck()")
    task.until(lambda: task.of("pulse"))
    assert task.of("pulse")[0]["doing"] == "serving"
    task = program("with vitals.within('step'):\n    pass\nstuck()")
    task.until(lambda: task.of("pulse"))
    assert task.of("pulse")[0]["doing"] == "python"


def test_a_process_that_is_stopped_has_no_pulse_and_then_no_more_than_others(program: Any) -> None:
    task = program("stuck()")
    task.until(lambda: task.of("pulse"))
    task.signal(signal.SIGSTOP)
    task.until(lambda: Path(f"/proc/{task.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    before = len(task.of("pulse"))
    enough = time.monotonic() + 3 * PULSE_INTERVAL_S
    task.until(lambda: time.monotonic() > enough)
    assert len(task.of("pulse")) == before
    task.signal(signal.SIGCONT)
    task.until(lambda: len(task.of("pulse")) > before)
    assert len(task.of("pulse")) <= before + 2


def test_sigterm_is_heard_in_a_call_that_no_signal_ends_and_another_ends_it(program: Any) -> None:
    task = program("vitals.watch()\nthreading.Thread(target=tell_when_asked).start()\nevents.send('watching')\nstuck()")
    task.until(lambda: task.of("watching"))
    task.signal(signal.SIGTERM)
    task.until(lambda: task.of("asked"))
    task.signal(signal.SIGTERM)  # from an agent that was asked to leave, too
    pulses = len(task.of("pulse"))
    task.until(lambda: len(task.of("pulse")) >= pulses + 1 + SAME_NOTICE_S / PULSE_INTERVAL_S)
    assert task.process.poll() is None, "two signals at once are one wish"
    task.signal(signal.SIGTERM)
    task.end()
    assert task.process.returncode == -signal.SIGTERM


def test_without_a_watch_sigterm_is_the_end(program: Any) -> None:
    task = program("events.send('here')\nstuck()")
    task.until(lambda: task.of("here"))
    task.signal(signal.SIGTERM)
    task.end()
    assert task.process.returncode == -signal.SIGTERM


def test_a_signal_to_a_process_that_the_users_library_forked_is_its_end_and_no_notice(program: Any) -> None:
    task = program(
        """
vitals.watch()
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=stuck)
child.start()
child.terminate()
child.join()
events.send("joined", code=child.exitcode, asked=vitals.asked_to_leave)
"""
    )
    task.end()
    (joined,) = task.of("joined")
    assert (joined["code"], joined["asked"]) == (-signal.SIGTERM, False)


def test_stacks_of_every_thread_of_a_process_that_is_stuck(program: Any) -> None:
    task = program(
        "def beside():\n    stuck()\nthreading.Thread(target=beside).start()\nevents.send('here')\nstuck()\n"
    )
    task.until(lambda: task.of("here"))
    assert task.stacks == "\n", "a byte says that the signal is safe"
    task.signal(signal.SIGUSR2)
    task.until(lambda: "most recent call first" in task.stacks and task.stacks.endswith("in <module>\n"))
    assert "in beside" in task.stacks
    assert task.stacks.count("in stuck") == 2
    assert task.process.poll() is None


def test_stacks_of_a_process_that_was_stopped(program: Any) -> None:
    task = program("events.send('here')\nstuck()")
    task.until(lambda: task.of("here"))
    task.signal(signal.SIGSTOP)
    task.signal(signal.SIGUSR2)
    task.signal(signal.SIGCONT)
    task.until(lambda: "in stuck" in task.stacks)


def test_stacks_of_a_process_that_sleeps_which_sleeps_on(program: Any) -> None:
    task = program("events.send('here')\ntime.sleep(2)\nevents.send('awake')")
    task.until(lambda: task.of("here"))
    task.signal(signal.SIGUSR2)
    task.until(lambda: "in <module>" in task.stacks)
    assert not task.of("awake")
    task.end()
    assert task.of("awake")


def test_a_script_has_a_pulse_and_stacks_and_keeps_its_signals(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import distrain, os, signal, subprocess, sys, time\n"
        "print([signal.getsignal(number) is signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGUSR2)])\n"
        "print(subprocess.run([sys.executable, '-c', 'import os; print(len(os.listdir(\"/proc/self/fd\")),"
        ' "DISTRAIN_STACKS_FD" in os.environ)\'], stdout=subprocess.PIPE).stdout)\n'
        "sys.stdout.flush()\n"
        "distrain.report(step=5)\n"
        "while True:\n    time.sleep(0.1)\n"
    )
    task = Program(["-m", "distrain.worker.script", str(script)])
    try:
        task.until(lambda: any(pulse["step"] == 5 for pulse in task.of("pulse")))
        assert {pulse["doing"] for pulse in task.of("pulse")} == {"python"}
        task.signal(signal.SIGUSR2)
        task.until(lambda: f'File "{script}", line 7 in <module>' in task.stacks)
        task.signal(signal.SIGTERM)
        out = task.end()
        assert task.process.returncode == -signal.SIGTERM
        assert out.splitlines() == ["[True, True]", "b'4 False\\n'"], "0, 1, 2 and the listing's own"
    finally:
        task.close()


def test_a_script_with_a_use_of_its_own_for_the_signal_is_never_sent_it(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import distrain, signal, time\n"
        "def requeue(number, frame):\n    distrain.report(step=2)\n"
        "signal.signal(signal.SIGUSR2, requeue)\n"
        "distrain.report(step=1)\n"
        "while True:\n    time.sleep(0.1)\n"
    )
    task = Program(["-m", "distrain.worker.script", str(script)])
    try:
        task.until(lambda: any(pulse["step"] == 1 for pulse in task.of("pulse")))
        assert task.stacks == "", "an empty file: the agent does not signal"
        task.signal(signal.SIGUSR2)  # its own scheduler may
        task.until(lambda: any(pulse["step"] == 2 for pulse in task.of("pulse")))
        assert task.stacks == ""
    finally:
        task.close()


def test_an_own_worker_that_was_asked_to_leave_says_so_by_its_code(tmp_path: Path) -> None:
    task = Program(
        [
            "-c",
            "import os\nfrom distrain.worker import __main__ as worker\nfrom distrain.worker.vitals import Preempted\n"
            "def leave(*_):\n    raise Preempted(12)\n"
            "worker._carry_out = leave\nos._exit(worker.main())",
        ],
        json.dumps(
            {
                "format": 1,
                "task": "worker:0",
                "chief": True,
                "run": "r",
                "run_dir": str(tmp_path),
                "attempt": 1,
                "threads": 1,
                "one_host": True,
                "import_paths": [],
                "job": {},
            }
        ),
    )
    try:
        out = task.end()
        assert task.process.returncode == 42, out
        assert out == "asked to leave after step 12: ending\n"
        assert not task.of("failure")
    finally:
        task.close()
