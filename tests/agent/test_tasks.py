"""Cold tasks: how they start, what they are given, what is told of them and how they are stopped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from agent.driver import PYTHON, Host
from process_table import wait_until

from distrain.wire import AgentNote, StopTasks, TaskCleared, TaskEvent, TaskExited, TaskOutput, TaskUsage

pytestmark = pytest.mark.processes

IGNORE_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def test_a_task_reads_its_input_and_tells_its_exit_code(host: Host) -> None:
    host.start(["sh", "-c", "cat; exit 3"], stdin=b"assignment\n")
    exited = host.exited()
    assert (exited.exit_code, exited.signal, exited.message) == (3, None, None)
    host.cleared()
    assert host.output() == b"assignment\n"


def test_what_a_task_said_comes_before_its_exit_and_what_is_cleared_comes_last(host: Host) -> None:
    host.run("import os; print('x' * 500_000); os.write(3, b'{\"kind\": \"last\"}')")
    host.cleared()
    kinds = [type(message) for message in host.heard]
    assert kinds.index(TaskExited) > max(kinds.index(TaskEvent), len(kinds) - 1 - kinds[::-1].index(TaskOutput))
    assert kinds[-1] is TaskCleared
    assert len(host.output()) == 500_001


def test_stdout_and_stderr_keep_their_order(host: Host) -> None:
    host.run("import os\nfor number in range(2000): os.write(1 + number % 2, b'%d\\n' % number)")
    host.cleared()
    assert host.output().split() == [b"%d" % number for number in range(2000)]


def test_a_signal_is_told_by_its_number(host: Host) -> None:
    host.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    exited = host.exited()
    assert (exited.exit_code, exited.signal) == (None, signal.SIGSEGV)


@pytest.mark.parametrize(
    ("argv", "cwd", "exit_code", "words"),
    [
        (["no-such-program"], "/", 127, "not found"),
        (["true"], "/no/such/folder", 125, "/no/such/folder"),
        (["true", "x" * 300_000], "/", 125, "too long"),
    ],
)
def test_a_task_that_cannot_run_is_told_in_a_sentence(
    host: Host, argv: list[str], cwd: str, exit_code: int, words: str
) -> None:
    host.start(argv, cwd=cwd)
    exited = host.exited()
    assert exited.exit_code == exit_code
    assert exited.message is not None
    assert words in exited.message
    host.cleared()


@pytest.mark.parametrize(("mode", "words"), [(0o600, "not executable"), (0o700, "first line")])
def test_a_file_that_is_no_program_is_told_in_a_sentence(host: Host, tmp_path: Path, mode: int, words: str) -> None:
    script = tmp_path / "script"
    script.write_text("echo hello\n")
    script.chmod(mode)
    host.start([str(script)])
    exited = host.exited()
    assert exited.exit_code == 126
    assert words in str(exited.message)


def test_a_script_whose_interpreter_is_missing_is_not_said_to_be_missing_itself(host: Host, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    host.start([str(script)])
    exited = host.exited()
    assert exited.exit_code == 127
    assert "interpreter" in str(exited.message)


def test_a_task_gets_a_clean_start(host: Host, tmp_path: Path) -> None:
    """A session and group of its own, no descriptor but its five, default signals, our code importable, its own cwd."""
    host.run(
        "import os, signal, sys, distrain\n"
        "fds = [int(fd) for fd in os.listdir('/proc/self/fd')]\n"
        "opened = [fd for fd in fds if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())\n"
        "print(sorted(opened), os.getsid(0) == os.getpgrp() == os.getpid(), os.getcwd(), os.environ['GREETING'])\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGHUP).name)\n",
        cwd=str(tmp_path),
        env={"GREETING": 'a "b" $c\nd'},
    )
    host.cleared()
    first, rest = host.output().decode().split("\n", 1)
    assert first == f'[0, 1, 2, 3, 4] True {tmp_path} a "b" $c'
    assert rest == "d\nset() SIG_DFL\n"


def test_signals_that_the_agent_ignores_are_not_ignored_in_a_task(host: Host) -> None:
    host.start(["sh", "-c", "grep SigIgn /proc/self/status"])
    host.cleared()
    assert int(host.output().split()[1], 16) == 0


def test_a_line_that_is_no_event_costs_nothing_but_a_note(host: Host) -> None:
    host.run(
        "import os\n"
        "for line in (b'not json', b'[1]', b'{}', b'x' * 2_000_000, b'{\"kind\": \"good\", \"n\": 1}', b'\\xff'):\n"
        "    data = line + b'\\n'\n"
        "    while data: data = data[os.write(3, data):]\n"
        'os.write(3, b\'{"kind": "without a newline"}\')'
    )
    assert host.exited().exit_code == 0
    assert [event.kind for event in host.all(TaskEvent)] == ["good", "without a newline"]
    assert host.all(TaskEvent)[0].data == {"n": 1}
    assert len(host.all(AgentNote)) == 5
    assert all("worker:0" in note.message for note in host.all(AgentNote))


def test_the_exit_is_told_at_once_even_while_children_hold_the_output(host: Host) -> None:
    host.run("import subprocess, sys\nsubprocess.Popen(['sleep', '600'])\nprint('now', flush=True)")
    host.until_output(b"now")
    began = time.monotonic()
    host.exited()
    assert time.monotonic() - began < 1.0
    host.cleared()
    assert [process for process in host.processes() if "sleep" in process.command] == []


def test_a_stop_is_term_then_kill_after_the_grace(host: Host) -> None:
    host.run(IGNORE_TERM + "time.sleep(600)")
    host.until_output(b"up")
    began = time.monotonic()
    host.link.send(StopTasks(("worker:0",), 1.0))
    assert host.exited().signal == signal.SIGKILL
    assert 0.9 < time.monotonic() - began < 3.0


def test_a_second_stop_can_only_shorten_the_grace(host: Host) -> None:
    host.run(IGNORE_TERM + "time.sleep(600)")
    host.until_output(b"up")
    host.link.send(StopTasks((), 60.0))
    host.link.send(StopTasks((), 600.0))
    host.link.send(StopTasks((), 0.0))
    began = time.monotonic()
    assert host.exited().signal == signal.SIGKILL
    assert time.monotonic() - began < 2.0


def test_a_task_may_use_its_grace(host: Host) -> None:
    host.run(
        "import signal, sys, time\n"
        "def leave(*_): print('saved', flush=True); sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, leave); print('up', flush=True); time.sleep(600)"
    )
    host.until_output(b"up\n")
    host.link.send(StopTasks((), 30.0))
    assert host.exited().exit_code == 7
    assert host.output() == b"up\nsaved\n"


def test_only_the_named_task_is_stopped(host: Host) -> None:
    host.run(SLEEP, task="worker:0")
    other = host.run(SLEEP, task="worker:1")
    host.link.send(StopTasks(("worker:0", "worker:9"), 5.0))
    host.cleared("worker:0")
    os.kill(other.pid, 0)
    assert [exited.task for exited in host.all(TaskExited)] == ["worker:0"]


def test_a_stopped_process_is_ended_too(host: Host) -> None:
    started = host.run(SLEEP)
    host.until_output(b"up")
    os.kill(started.pid, signal.SIGSTOP)
    host.link.send(StopTasks((), 20.0))
    assert host.exited().signal == signal.SIGTERM


def test_a_task_can_be_started_again_when_it_is_cleared_and_not_before(host: Host) -> None:
    host.run(SLEEP, attempt=1)
    host.start(["true"], attempt=2)
    refused = host.exited(attempt=2)
    assert refused.exit_code == 125
    assert "not cleared" in str(refused.message)
    host.link.send(StopTasks((), 5.0))
    host.cleared(attempt=1)
    host.start(["true"], attempt=3)
    assert host.exited(attempt=3).exit_code == 0


def test_usage_counts_the_whole_group(host: Host) -> None:
    host.run(
        "import os, time\n"
        "os.fork()\n"
        "held = bytearray(os.urandom(1 << 20) * 50)\n"
        "end = time.process_time() + 0.4\n"
        "while time.process_time() < end: pass\n"
        "time.sleep(600)"
    )
    host.until(lambda: any(usage.cpu_s >= 0.7 for usage in host.all(TaskUsage)), "CPU of both processes")
    host.until(lambda: host.all(TaskUsage)[-1].memory_bytes > 100 << 20, "memory of both processes")
    assert host.all(TaskUsage)[-1].memory_bytes < 200 << 20


def test_many_short_tasks_leave_no_zombie(host: Host) -> None:
    for number in range(20):
        host.start([*PYTHON, "import os; os.fork() or os.fork()"], task=f"worker:{number}")
    for number in range(20):
        host.cleared(f"worker:{number}")
    children = Path(f"/proc/{host.agent_pid}/task/{host.agent_pid}/children")
    wait_until(lambda: not children.read_text().split(), 5.0, "no child of the agent")
