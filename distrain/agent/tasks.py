"""All tasks of this host: starts them cold or warm, stops them, reaps what ends, and knows which process is whose.

It does no waiting: `main` selects on `sources`, and calls `tick` when `next_tick` has come. A task is known by its
name until it is cleared.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping

from distrain.agent import processes, spawn
from distrain.agent.processes import Process
from distrain.agent.streams import Pipe
from distrain.agent.task import State, Task
from distrain.agent.warm import Forked, NotForked, Preloaded, Request
from distrain.wire import AgentNote, Message, Preload, StartTask, TaskEvent, TaskUsage

_LOOK_AGAIN_S = (0.02, 0.5)
_USAGE_INTERVAL_S = 1.0
_USAGE_SHARE = 0.005
"""Usage is looked at less often where looking would cost more than this share of a core."""


class Tasks:
    """`tree` holds distrain's code, which every task can import."""

    def __init__(self, tree: str, emit: Callable[[Message], None]) -> None:
        self._tree = tree
        self._emit = emit
        self._tasks: dict[str, Task] = {}
        self._preloaded: Preloaded | None = None
        self._refusing: str | None = None
        self._look_at = math.inf
        self._look_pause_s = _LOOK_AGAIN_S[0]
        self._usage_at = math.inf

    def __bool__(self) -> bool:
        """Whether any task is not cleared yet."""
        return bool(self._tasks)

    # ---- what the launcher asks for

    def preload(self, order: Preload) -> None:
        if self._preloaded is not None:
            if self._preloaded.order == order and self._preloaded.failed is None:
                return
            self._preload_failed(self._preloaded)
        try:
            environment = self._with_our_code({**os.environ, **order.env})
            self._preloaded = Preloaded(order, environment, self._tree, self._preload_printed)
        except OSError as error:
            self._emit(AgentNote("error", f"no process could be started to import TensorFlow in: {error.strerror}"))

    def start(self, request: StartTask) -> None:
        task = Task(request, self._emit)
        if self._refusing is not None:
            task.refuse(125, self._refusing)
            return
        if request.task in self._tasks:
            task.refuse(125, f"{request.task} of attempt {self._tasks[request.task].attempt} is not cleared yet")
            return
        self._tasks[request.task] = task
        if self._usage_at == math.inf:
            self._usage_at = time.monotonic() + _USAGE_INTERVAL_S
        try:
            stdin = spawn.file_of(request.stdin)
            try:
                (self._start_warm if request.warm else self._start_cold)(task, stdin)
            finally:
                os.close(stdin)
        except OSError as error:
            task.refuse(125, f"{request.task} could not be started: {error.strerror}")
        self._forget_cleared()

    def stop(self, names: tuple[str, ...], grace_s: float) -> None:
        """TERM now, KILL `grace_s` later; of all tasks if `names` is empty. Unknown names have ended already."""
        now = time.monotonic()
        for task in list(self._tasks.values()):
            if not names or task.name in names:
                task.stop(now, grace_s)
                if self._preloaded is not None and self._preloaded.withdraw(task.name):
                    task.refuse(125, f"{task.name} was stopped before it started")
        self._forget_cleared()
        self._look_soon()

    def end(self, grace_s: float, reason: str) -> None:
        """Stop all tasks, and start no other."""
        self._refusing = reason
        self.stop((), grace_s)
        if self._preloaded is not None and not self._preloaded.is_forking:
            self._preload_failed(self._preloaded)

    # ---- what the loop needs

    def sources(self, now: float, has_room: bool) -> Iterator[tuple[int, Callable[[], object]]]:
        """What to wait for: descriptors that become readable, and what to call then."""
        preloaded = self._preloaded
        if preloaded is not None:
            if preloaded.report_fd >= 0:
                yield preloaded.report_fd, self._preload_started
            elif preloaded.failed is None:
                yield preloaded.socket.fileno(), self._preload_answered
        for task in self._tasks.values():
            if task.report_fd >= 0:
                yield task.report_fd, lambda task=task: self._reported(task)
        if has_room:
            for pipe in self._pipes():
                if pipe.resume_at <= now:
                    yield pipe.fd, lambda pipe=pipe: pipe.is_open and pipe.read(time.monotonic())

    def next_tick(self, has_room: bool) -> float:
        """When (monotonic) `tick` is due, or a resting pipe is to be read again."""
        stops = (task.kill_at for task in self._tasks.values() if task.kill_at is not None)
        rests = (pipe.resume_at for pipe in self._pipes() if has_room and pipe.resume_at)
        later = (due for due in (*stops, *rests) if due > time.monotonic() - 0.001)
        return min(self._look_at, self._usage_at, *later, math.inf)

    def tick(self) -> None:
        now = time.monotonic()
        overdue = [task for task in self._tasks.values() if task.kill_at is not None and task.kill_at <= now]
        if now >= self._look_at or (overdue and self._look_at == math.inf):
            self._look(now)
        if now >= self._usage_at:
            self._measure(now)

    def reap(self) -> None:
        """A child has ended: one of the tasks, the preload process, or an orphan that came to us."""
        for task in list(self._tasks.values()):
            was = task.state
            task.notice_exit()
            if task.state is not was:
                self._look_soon()
        if self._preloaded is not None:
            self._preloaded.reap()
            if self._preloaded.failed is not None:
                self._preload_failed(self._preloaded)
        if self._preloaded is None or not self._preloaded.is_forking:
            known = {task.pid for task in self._tasks.values()}
            known.add(self._preloaded.pid if self._preloaded else None)
            for pid in processes.children_of_this_process():
                if pid not in known:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
        self._forget_cleared()

    # ---- starting

    def _start_cold(self, task: Task, stdin: int) -> None:
        request = task.request
        task.pid, task.report_fd = spawn.start(
            request.argv,
            self._with_our_code({**os.environ, **task.own_environment}),
            request.cwd,
            stdin=stdin,
            output=task.output.write_fd,
            events=task.events.write_fd,
        )

    def _start_warm(self, task: Task, stdin: int) -> None:
        preloaded = self._preloaded
        if preloaded is None:
            task.refuse(125, f"{task.name} was to be forked from a process that nobody has asked for")
            return
        if preloaded.failed is not None and preloaded.ready:  # it was killed since: the import is worth another try
            self.preload(preloaded.order)
            preloaded = self._preloaded
        if not os.path.isdir(task.request.cwd):
            task.refuse(125, f"the working directory {task.request.cwd} is no directory here; run from another")
            return
        task.print(bytes(preloaded.transcript)) if preloaded.transcript else None
        if not preloaded.ready:
            phase = {"phase": "importing TensorFlow"}
            self._emit(TaskEvent(task.name, task.attempt, time.time(), "phase", phase))
