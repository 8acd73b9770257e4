"""One task on this host, from its start until nothing of it is left. Owns its pipes and what is signalled when.

The main process, once ended, is kept as a zombie until the rest of the task is gone. So its number, which names the
task's process group and session, cannot be given to anybody else while we may still signal them.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from distrain.agent import processes, spawn
from distrain.agent.out_of_memory import Account, KernelsWord
from distrain.agent.processes import Process
from distrain.agent.stacks import Stacks
from distrain.agent.streams import EventLines, Pipe
from distrain.wire import (
    EVENTS_FD,
    EVENTS_FD_VARIABLE,
    STACKS_FD,
    STACKS_FD_VARIABLE,
    Message,
    StartTask,
    TaskCleared,
    TaskExited,
    TaskOutput,
    TaskStacks,
    TaskStarted,
)

STRAY_GRACE_S = 2.0
"""How long what a task leaves running has between TERM and KILL."""

_MARK_VARIABLE = "DISTRAIN_MARK"


class State(enum.Enum):
    STARTING = enum.auto()
    RUNNING = enum.auto()
    CLEARING = enum.auto()
    """The main process has ended, and what it left behind is being ended."""
    CLEARED = enum.auto()


class Task:
    """A task that is to be started. `kernel` is asked why it died, if nobody here has killed it.

    Raises:
        OSError: there are no descriptors left for its streams.
    """

    def __init__(self, request: StartTask, kernel: KernelsWord, emit: Callable[[Message], None]) -> None:
        self.request = request
        self.name = request.task
        self.attempt = request.attempt
        self.state = State.STARTING
        self.pid: int | None = None
        self.report_fd = -1
        self.kill_at: float | None = None
        """When (monotonic) whatever is left is killed. None: no stop was asked for."""
        self._rest_was_told = False
        self._killed_by_us = False
        self._kernel = kernel
        self._account: Account | None = None
        self._emit = emit
        self._mark = os.urandom(16).hex()
        lines = EventLines(self.name, self.attempt)
        with contextlib.ExitStack() as opened:
            self.stdin = spawn.file_of(request.stdin)
            opened.callback(os.close, self.stdin)
            self.stacks = Stacks()
            opened.callback(self.stacks.close)
            self.output = Pipe(self.print)
            opened.callback(self.output.close)
            self.events = Pipe(
                lambda data: self._emit_all(lines.feed(data)),
                lambda: self._emit_all(lines.finish()),
            )
            opened.pop_all()
        self._pipe_names = frozenset({processes.name_of(self.output.fd), processes.name_of(self.events.fd)})

    @property
    def own_environment(self) -> Mapping[str, str]:
        """What the task's environment has beyond the agent's."""
        ours = {EVENTS_FD_VARIABLE: str(EVENTS_FD), STACKS_FD_VARIABLE: str(STACKS_FD), _MARK_VARIABLE: self._mark}
        return {**self.request.env, **ours}

    @property
    def descriptors(self) -> dict[str, int]:
        """What the task is to have, by the names that starting takes them by."""
        return {
            "stdin": self.stdin,
            "output": self.output.write_fd,
            "events": self.events.write_fd,
            "stacks": self.stacks.fd,
        }

    def print(self, data: bytes) -> None:
        """Pass on bytes as printed by the task."""
        if data:
            self._emit(TaskOutput(self.name, self.attempt, data))

    def owns_orphan(self, process: Process) -> bool:
        """Whether a process without a living parent is ours: it has our mark, or one of our pipes."""
        mark = f"{_MARK_VARIABLE}={self._mark}".encode()
        return processes.has_in_environment(process, mark) or processes.holds_any(process, self._pipe_names)

    def started(self, pid: int) -> None:
        """The main process runs, and leads a session and process group of its own."""
        self.pid = pid
        self.state = State.RUNNING
        self._account = self._kernel.account(pid)
        self._give_away()
        self._emit(TaskStarted(self.name, self.attempt, time.time(), pid))
        if self.kill_at is not None:
            self._terminate_group()

    def reported(self) -> None:
        """The fork of a cold task has said whether the program runs."""
        assert self.pid is not None
        report = spawn.read_report(self.report_fd, self.request.argv, self.request.cwd)
        self.report_fd = -1
        if report is None:
            self.started(self.pid)
        else:
            self.refuse(report.exit_code, report.message)

    def refuse(self, exit_code: int, message: str) -> None:
        """The task never ran."""
        if self.pid is not None:
            os.waitpid(self.pid, 0)  # it has said why, and does nothing more but end
        self.close()
        self.state = State.CLEARED
        for answer in refusal(self.request, exit_code, message):
            self._emit(answer)

    def notice_exit(self) -> None:
        """See whether the main process has ended, without reaping it."""
        if self.pid is None or self.state not in (State.STARTING, State.RUNNING):
            return
        result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return
        if self.state is State.STARTING:
            self.reported()  # it ended, so it has reported
        if self.state is not State.RUNNING:
            return
        self.state = State.CLEARING
        self.output.drain()
        self.events.drain()
        self.tell_stacks(math.inf)
        exited = result.si_code == os.CLD_EXITED
        code, number = (result.si_status, None) if exited else (None, result.si_status)
        is_riddle = number == signal.SIGKILL and not self._killed_by_us
        why = self._kernel.why(self.pid, self._account) if is_riddle else None
        self._emit(TaskExited(self.name, self.attempt, time.time(), code, number, why=why))

    def ask_for_stacks(self, now: float) -> None:
        """Have the task tell where its threads are; what it tells, if anything, is sent when it is there."""
        if self.state is State.RUNNING and self.pid is not None:
            self.stacks.ask(self.pid, now)
            self.tell_stacks(now)
        else:
            self._emit(TaskStacks(self.name, self.attempt))

    def tell_stacks(self, now: float) -> None:
        """Send its stacks, if they were asked for and are there. `now` infinite: no more can come."""
        told = self.stacks.take(now)
        if told is not None:
            self._emit(TaskStacks(self.name, self.attempt, told))

    def signal_main(self, number: int) -> None:
        """Signal the main process, if it runs."""
        if self.state is State.RUNNING and self.pid is not None:
            self._killed_by_us = self._killed_by_us or number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def stop(self, now: float, grace_s: float) -> None:
        """TERM now, KILL when `grace_s` is over. Said again, it can only come sooner."""
        first = self.kill_at is None
        self.kill_at = now + grace_s if self.kill_at is None else min(self.kill_at, now + grace_s)
        if first and self.state is State.RUNNING:
            self._terminate_group()

    def extend(self, now: float, grace_s: float) -> None:
        """If it is being stopped, it has `grace_s` from now for that after all."""
        if self.kill_at is not None:
            self.kill_at = max(self.kill_at, now + grace_s)

    def is_overdue(self, now: float) -> bool:
        """Whether the grace is over."""
        return self.kill_at is not None and self.kill_at <= now

    def end_rest(self, now: float, members: Iterable[Process]) -> None:
        """The main process has ended: end the others that are left, `members`, or be done if there are none."""
        left = list(members)
        if not left:
            self._clear()
            return
        if not self._rest_was_told:
            self._rest_was_told = True
            self.stop(now, STRAY_GRACE_S)
            self._signal(left, signal.SIGTERM, signal.SIGCONT)
        if self.is_overdue(now):
            self._signal(left, signal.SIGKILL)

    def kill(self, members: Iterable[Process]) -> None:
        """The deadline is over and the main process still runs, or has not yet reported that it does."""
        if self.pid is not None:
            self._killed_by_us = True
            with contextlib.suppress(PermissionError):  # it has become another user, as sudo does
                os.kill(self.pid, signal.SIGKILL)
        self._signal(members, signal.SIGKILL)

    def _clear(self) -> None:
        assert self.pid is not None
        self.output.drain()
        self.events.drain()
        self.close()
        os.waitpid(self.pid, 0)
        self.state = State.CLEARED
        self._emit(TaskCleared(self.name, self.attempt))

    def _terminate_group(self) -> None:
        assert self.pid is not None
        for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process sees TERM only when it goes on
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    @staticmethod
    def _signal(members: Iterable[Process], *numbers: int) -> None:
        for number in numbers:
            for process in members:
                processes.send_signal(process, number)

    def _give_away(self) -> None:
        """The task has its own copies of these now."""
        self.output.give_away()
        self.events.give_away()
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        """Close its streams."""
        self._give_away()
        self.output.close()
        self.events.close()
        self.stacks.close()

    def _emit_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._emit(message)


def refusal(request: StartTask, exit_code: int, message: str) -> tuple[TaskExited, TaskCleared]:
    """What is told of a task that never ran."""
    exited = TaskExited(request.task, request.attempt, time.time(), exit_code, None, message)
    return exited, TaskCleared(request.task, request.attempt)
