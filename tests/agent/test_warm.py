"""Warm tasks: the agent and distrain's own preload process, with a toy in place of TensorFlow and of the worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import wait_until

from distrain.launcher.hosts.bundle import make_bundle
from distrain.wire import AgentNote, Ping, Pong, Preload, StopTasks, TaskCleared, TaskEvent, TaskStarted

pytestmark = pytest.mark.processes

TOY_WORKER = "import sys\ndef main():\n    exec(sys.stdin.read(), {})\n    return 0\n"
UP = "print('up', flush=True); import time; time.sleep(600)"


class WarmHost:
    """A host whose preload process imports `tensorflow` from a file of ours, which may first wait for `gate`."""

    def __init__(self, open_host: Callable[..., Host], package: Path, folder: Path) -> None:
        (package / "worker" / "__main__.py").write_text(TOY_WORKER)
        (package / "worker" / "roles.py").write_text("def import_all(): pass\n")
        self.toys = folder / "toys"
        eager = self.toys / "tensorflow" / "python" / "eager"
        eager.mkdir(parents=True)
        (eager / "context.py").write_text("class context:\n    _initialized = False\n")
        self.toy_tensorflow = self.toys / "tensorflow" / "__init__.py"
        self.toy_tensorflow.write_text("import sys\n__version__ = '0'\nprint('importing', file=sys.stderr)\n")
        (self.toys / "keras.py").write_text("__version__ = '0'\n")
        self.gate = folder / "gate"
        self.host = open_host(bundle=make_bundle(package))

    def preload(self, python: str = sys.executable, **env: str) -> None:
        self.host.link.send(Preload(python, {"PYTHONPATH": str(self.toys), **env}))

    @property
    def preload_pid(self) -> int:
        """Of the process that has done the import, when all tasks that it has forked have been told of."""
        running = {started.pid for started in self.host.all(TaskStarted)}
        below = (p for p in self.host.processes() if p.parent == self.host.agent_pid)
        (pid,) = {p.pid for p in below} - running
        return pid

    def wait_at_the_gate(self) -> None:
        """From now on the import waits until `gate` is there."""
        with self.toy_tensorflow.open("a") as file:
            file.write(f"import os, time\nwhile not os.path.exists({str(self.gate)!r}): time.sleep(0.01)\n")

    def start(self, code: str, task: str = "worker:0", **options: object) -> None:
        self.host.start(["toy"], task=task, warm=True, stdin=code.encode(), **options)  # type: ignore[arg-type]


@pytest.fixture
def warm(open_host: Callable[..., Host], copied_package: Path, tmp_path: Path) -> WarmHost:
    return WarmHost(open_host, copied_package, tmp_path)


def test_a_warm_task_is_a_fork_with_its_own_environment_and_streams(warm: WarmHost, tmp_path: Path) -> None:
    warm.preload(BEFORE="import")
    warm.start(
        "import os, sys, tensorflow\n"
        "print(os.environ['BEFORE'], os.environ['TF_CONFIG'], os.getcwd(), sys.argv, os.getsid(0) == os.getpid())\n"
        "print(os.getppid(), sorted(map(int, os.listdir('/proc/self/fd')))[:5])\n"
        "os.write(int(os.environ['DISTRAIN_EVENTS_FD']), b'{\"kind\": \"hello\"}\\n')\n"
        "raise SystemExit(5)",
        env={"TF_CONFIG": "{}"},
        cwd=str(tmp_path),
    )
    exited = warm.host.exited()
    assert (exited.exit_code, exited.signal) == (5, None)
    warm.host.cleared()
    lines = warm.host.output().decode().splitlines()
    assert lines[0] == "importing"
    assert lines[1] == f"import {{}} {tmp_path} ['toy'] True"
    assert lines[2] == f"{warm.host.agent_pid} [0, 1, 2, 3, 4]"
    assert [event.kind for event in warm.host.all(TaskEvent) if event.kind != "phase"] == ["hello"]


def test_the_import_happens_once_for_all_tasks_and_attempts(warm: WarmHost) -> None:
    warm.preload()
    pids = set()
    preloads = set()
    for attempt in (1, 2):
        for number in range(3):
            warm.start("import os, tensorflow; print(id(tensorflow))", f"worker:{number}", attempt=attempt)
        for number in range(3):
            pids.add(warm.host.wait_for(TaskStarted, task=f"worker:{number}", attempt=attempt).pid)
            warm.host.cleared(f"worker:{number}", attempt=attempt)
        preloads.add(warm.preload_pid)
    assert len(pids) == 6
    assert len(preloads) == 1
    identities = {line for number in range(3) for line in warm.host.output(f"worker:{number}").split()[1:]}
    assert len(identities - {b"importing"}) == 1, "every fork has the very module"


def test_attempts_that_are_killed_leave_the_import_to_the_next(warm: WarmHost) -> None:
    """A task is killed, its neighbour stopped at once, both start again; at last one alone, in the same attempt."""
    warm.preload()
    tasks = ("worker:0", "worker:1")
    preloads = set()
    for attempt in (1, 2, 3):
        for task in tasks:
            warm.start(UP, task, attempt=attempt)
        for task in tasks:
            warm.host.until(lambda n=attempt, task=task: warm.host.output(task).count(b"up") == n, "it runs")
            warm.host.wait_for(TaskStarted, task=task, attempt=attempt)
        preloads.add(warm.preload_pid)
        os.kill(warm.host.wait_for(TaskStarted, task=tasks[0], attempt=attempt).pid, signal.SIGKILL)
        warm.host.exited(tasks[0], attempt=attempt)
        warm.host.link.send(StopTasks((), 0.0, again=True))
        for task in tasks:
            warm.host.cleared(task, attempt=attempt)
    warm.start("print('the same again')", tasks[1], attempt=3)
    warm.host.until(lambda: len([each for each in warm.host.all(TaskCleared) if each.attempt == 3]) == 3, "it is done")
    assert b"the same again" in warm.host.output(tasks[1])
    assert preloads == {warm.preload_pid}


def test_environment_beyond_a_packets_size(warm: WarmHost) -> None:
    warm.preload()
    warm.start("import os; print(len(os.environ['LARGE']))", env={"LARGE": "x" * 3_000_000})
    warm.host.cleared()
    assert b"3000000" in warm.host.output()


def test_a_failed_import_ends_the_tasks_that_wait_with_its_traceback(warm: WarmHost) -> None:
    warm.toy_tensorflow.write_text("raise ImportError('libtoy.so.1 is missing')\n")
    warm.preload()
    for task in ("worker:0", "worker:1"):
        warm.start(UP, task)
    for task in ("worker:0", "worker:1"):
        exited = warm.host.exited(task)
        assert exited.exit_code == 125
        assert exited.message == "TensorFlow could not be imported: ImportError: libtoy.so.1 is missing"
        warm.host.cleared(task)
        assert b"Traceback" in warm.host.output(task)
    warm.start(UP, "worker:2")
    assert warm.host.exited("worker:2").exit_code == 125
    assert b"Traceback" in warm.host.output("worker:2")


def test_a_failed_import_that_nobody_waits_for_is_told_all_the_same(warm: WarmHost) -> None:
    warm.toy_tensorflow.write_text("raise ImportError('libtoy.so.1 is missing')\n")
    warm.preload()
    note = warm.host.wait_for(AgentNote, level="error")
    assert "libtoy.so.1 is missing" in note.message


def test_a_python_that_is_not_there(warm: WarmHost) -> None:
    warm.preload(python="/no/such/python")
    warm.start(UP)
    exited = warm.host.exited()
    assert exited.exit_code == 125
    assert "/no/such/python" in str(exited.message)


def test_a_working_directory_that_is_not_there(warm: WarmHost) -> None:
    warm.preload()
    warm.start(UP, cwd="/no/such/folder")
    assert warm.host.exited().exit_code == 125
    assert "/no/such/folder" in str(warm.host.exited().message)


def test_a_task_that_waits_for_the_import_says_so_and_can_be_stopped(warm: WarmHost) -> None:
    warm.wait_at_the_gate()
    warm.preload()
    warm.start(UP)
    assert warm.host.wait_for(TaskEvent, kind="phase").data == {"phase": "importing TensorFlow"}
    warm.host.until_output(b"importing\n")
    began = time.monotonic()
    warm.host.link.send(StopTasks((), 30.0))
    assert warm.host.exited().exit_code == 125
    warm.host.cleared()
    assert time.monotonic() - began < 1.0
    warm.gate.touch()
    warm.start("print('later')", attempt=2)
    assert warm.host.exited(attempt=2).exit_code == 0


def test_a_killed_preload_process_costs_no_running_task_and_is_replaced(warm: WarmHost) -> None:
    warm.preload()
    warm.start(UP)
    warm.host.until_output(b"up")
    (preload,) = [p for p in warm.host.processes() if p.parent == warm.host.agent_pid and p.pid != _pid(warm.host)]
    os.kill(preload.pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{preload.pid}"), 5.0, "the preload process is gone")
    warm.start("print('again')", "worker:1")
    assert warm.host.exited("worker:1").exit_code == 0
    os.kill(_pid(warm.host), 0)


def test_what_a_killed_preload_process_was_asked_for_is_done_by_another(warm: WarmHost) -> None:
    warm.preload()
    warm.start("pass")
    warm.host.cleared()
    preload = warm.preload_pid
    os.kill(preload, signal.SIGSTOP)
    for task in ("worker:1", "worker:2"):
        warm.start("print('again')", task)
    warm.host.link.send(StopTasks(("worker:2",), 600.0))
    warm.host.link.send(Ping(1))
    warm.host.wait_for(Pong)
    os.kill(preload, signal.SIGKILL)
    assert warm.host.exited("worker:1").exit_code == 0
    assert b"again" in warm.host.output("worker:1")
    assert warm.host.exited("worker:2").exit_code == 125, "it was to be stopped anyway"
    assert "was killed by SIGKILL" in warm.host.wait_for(AgentNote, level="error").message


def test_a_preload_process_that_never_forked_is_not_tried_again(warm: WarmHost) -> None:
    """Whatever it dies of may be what it is asked for."""
    warm.wait_at_the_gate()
    warm.preload()
    warm.start(UP)
    warm.host.until_output(b"importing")
    os.kill(warm.preload_pid, signal.SIGKILL)
    assert warm.host.exited().exit_code == 125


def test_a_preload_process_that_hangs_does_not_hold_up_a_stop(warm: WarmHost) -> None:
    warm.preload()
    warm.start("pass")
    warm.host.cleared()
    (preload,) = [p for p in warm.host.processes() if p.parent == warm.host.agent_pid]
    os.kill(preload.pid, signal.SIGSTOP)
    warm.start(UP, "worker:1")
    warm.host.link.send(StopTasks((), 0.5))
    assert warm.host.exited("worker:1").exit_code == 125


def test_warm_tasks_are_stopped_like_any(warm: WarmHost) -> None:
    warm.preload()
    warm.start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + UP, "worker:0")
    warm.start(UP, "worker:1")
    for task in ("worker:0", "worker:1"):
        warm.host.until_output(b"up", task)
    warm.host.link.send(StopTasks((), 1.0))
    assert warm.host.exited("worker:1").signal == signal.SIGTERM
    assert warm.host.exited("worker:0").signal == signal.SIGKILL


@pytest.mark.parametrize("waiting", [True, False], ids=["while importing", "while running"])
@pytest.mark.parametrize("ending", ["hang up", "kill agent", "kill guard", "kill both"])
def test_nothing_warm_is_left(warm: WarmHost, ending: str, waiting: bool) -> None:
    if waiting:
        warm.wait_at_the_gate()
    warm.preload()
    warm.start(UP)
    warm.host.until_output(b"importing" if waiting else b"up")
    if ending == "hang up":
        warm.host.link.hang_up()
    if ending in ("kill agent", "kill both"):
        os.kill(warm.host.agent_pid, signal.SIGKILL)
    if ending in ("kill guard", "kill both"):
        os.kill(warm.host.guard_pid, signal.SIGKILL)
    assert warm.host.nothing_left() < 4.0


def _pid(host: Host) -> int:
    return host.wait_for(TaskStarted).pid
