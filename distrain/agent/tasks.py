"""All tasks of this host: starts them cold or warm, stops them, and reaps what ends.

It does no waiting: `main` selects on `sources`, and calls `tick` when `next_tick` has come. A task is known by its
name until it is cleared.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from distrain.agent import processes, spawn
from distrain.agent.members import by_task
from distrain.agent.out_of_memory import KernelsWord
from distrain.agent.processes import Process
from distrain.agent.streams import Pipe
from distrain.agent.task import State, Task, refusal
from distrain.agent.usage import Usage
from distrain.agent.warm import Forked, NotForked, Preloaded, Request
from distrain.wire import AgentNote, Message, Preload, StartTask, TaskEvent

_LOOK_AGAIN_S = (0.02, 0.5)


class Tasks:
    """`tree` holds distrain's code, which every task can import."""

    def __init__(self, tree: str, emit: Callable[[Message], None]) -> None:
        self._tree = tree
        self._emit = emit
        self._kernel = KernelsWord()
        self._usage = Usage(self._members, emit)
        self._tasks: dict[str, Task] = {}
        self._preloaded: Preloaded | None = None
        self._refusing: str | None = None
        self._look_at = math.inf
        self._look_pause_s = _LOOK_AGAIN_S[0]

    def __bool__(self) -> bool:
        """Whether any task is not cleared yet."""
        return any(task.state is not State.CLEARED for task in self._tasks.values())

    # ---- what the launcher asks for

    def preload(self, order: Preload) -> None:
        if self._preloaded is not None and self._preloaded.is_open:
            if self._preloaded.order == order:
                return
            self._end_preload(self._preloaded, "another one was asked for")
        try:
            environment = self._with_our_code({**os.environ, **order.env})
            self._preloaded = Preloaded(order, environment, self._tree, self._preload_printed)
        except OSError as error:
            self._emit(AgentNote("error", f"no process could be started to import TensorFlow in: {error.strerror}"))

    def start(self, request: StartTask) -> None:
        earlier = self._tasks.get(request.task)
        if self._refusing is not None:
            self._refuse(request, self._refusing)
            return
        if earlier is not None:
            self._refuse(request, f"{earlier.name} of attempt {earlier.attempt} is not cleared yet")
            return
        try:
            task = self._tasks[request.task] = Task(request, self._kernel, self._quote)
            (self._start_warm if request.warm else self._start_cold)(task)
        except OSError as error:
            self._tasks.pop(request.task, None)
            self._refuse(request, f"{request.task} could not be started: {error.strerror}; see `ulimit -a` there")
        self._usage.begin()
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

    def running(self, names: tuple[str, ...]) -> list[Task]:
        """Those of these names, all if there are none, whose main processes run."""
        running = (task for task in self._tasks.values() if task.state is State.RUNNING)
        return [task for task in running if not names or task.name in names]

    def ask_for_stacks(self, names: tuple[str, ...]) -> None:
        """Have each tell where its threads are, if it is there."""
        for name in names:
            if name in self._tasks:
                self._tasks[name].ask_for_stacks(time.monotonic())

    def end(self, grace_s: float, reason: str, *, at_least: bool = False) -> None:
        """Stop all tasks, and start no other. `at_least`: those that are being stopped have so long, too."""
        self._refusing = reason
        self.stop((), grace_s)
        for task in self._tasks.values() if at_least else ():
            task.extend(time.monotonic(), grace_s)
        if self._preloaded is not None:
            self._heed_preload(self._preloaded)

    # ---- what the loop needs

    def sources(self, now: float, has_room: bool) -> Iterator[tuple[int, Callable[[], object]]]:
        """What to wait for: descriptors that become readable, and what to call then."""
        preloaded = self._preloaded
        if preloaded is not None and preloaded.is_open:
            if preloaded.report_fd >= 0:
                yield preloaded.report_fd, self._preload_started
            else:
                yield preloaded.socket.fileno(), self._preload_answered
        for task in self._tasks.values():
            if task.report_fd >= 0:
                yield task.report_fd, partial(self._reported, task)
        if has_room:
            for pipe in self._pipes():
                if pipe.resume_at <= now:
                    yield pipe.fd, pipe.read

    def next_tick(self, now: float, has_room: bool) -> float:
        """When (monotonic) `tick` is due, or a resting pipe is to be read again."""
        stops = (task.kill_at for task in self._tasks.values() if task.kill_at is not None)
        rests = (pipe.resume_at for pipe in self._pipes() if has_room and pipe.resume_at)
        later = (due for due in (*stops, *rests) if due > now)
        stacks = (task.stacks.due for task in self._tasks.values())
        return min(self._look_at, self._usage.due, *later, *stacks, math.inf)

    def tick(self) -> None:
        now = time.monotonic()
        overdue = any(task.is_overdue(now) for task in self._tasks.values())
        if now >= self._look_at or (overdue and self._look_at == math.inf):
            self._look(now)
        if now >= self._usage.due:
            self._usage.look(self._tasks.values())
        for task in self._tasks.values():
            task.tell_stacks(now)

    def reap(self) -> None:
        """A child has ended: one of the tasks, the preload process, or an orphan that came to us."""
        for task in list(self._tasks.values()):
            was = task.state
            task.notice_exit()
            if task.state is not was:
                self._look_soon()
        if self._preloaded is not None:
            self._preloaded.reap()
            self._heed_preload(self._preloaded)
        if self._preloaded is None or not self._preloaded.is_forking:
            known = {owner.pid for owner in (*self._tasks.values(), self._preloaded) if owner is not None}
            for pid in processes.children_of_this_process():
                if pid not in known:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
        self._forget_cleared()

    def _quote(self, message: Message) -> None:
        """What a task says."""
        self._usage.before(message, self._tasks)
        self._emit(message)

    # ---- starting

    def _start_cold(self, task: Task) -> None:
        request = task.request
        environment = self._with_our_code({**os.environ, **task.own_environment})
        try:
            task.pid, task.report_fd = spawn.start(request.argv, environment, request.cwd, **task.descriptors)
        except OSError:
            task.close()
            raise

    def _start_warm(self, task: Task) -> None:
        request = task.request
        preloaded = self._preloaded
        if preloaded is not None and preloaded.ready and preloaded.failed is not None:
            self.preload(preloaded.order)  # it was killed since
            preloaded = self._preloaded
        if preloaded is None:
            task.refuse(125, f"{task.name} was to be forked from a process that was never asked for")
        elif not os.path.isdir(request.cwd):
            task.refuse(125, f"the working directory {request.cwd} does not exist there; create it or run from another")
        elif preloaded.failed is not None:
            task.print(bytes(preloaded.transcript))
            task.refuse(125, f"TensorFlow could not be imported: {preloaded.failed}")
        else:
            task.print(bytes(preloaded.transcript))
            if not preloaded.ready:
                phase = {"phase": "importing TensorFlow"}
                self._emit(TaskEvent(task.name, task.attempt, time.time(), "phase", phase))
            environment = dict(task.own_environment)
            if "PYTHONPATH" in environment:
                environment = self._with_our_code(environment)
            preloaded.ask(Request(task.name, request.argv, environment, request.cwd, **task.descriptors))

    def _with_our_code(self, environment: Mapping[str, str]) -> dict[str, str]:
        """`environment`, with distrain importable: in the task, and so in what the task starts."""
        paths = [self._tree, *filter(None, [environment.get("PYTHONPATH")])]
        return {**environment, "PYTHONPATH": os.pathsep.join(paths)}

    def _refuse(self, request: StartTask, message: str) -> None:
        for answer in refusal(request, 125, message):
            self._emit(answer)

    def _reported(self, task: Task) -> None:
        if task.report_fd >= 0:
            task.reported()
            self._forget_cleared()

    # ---- the preload process

    def _preload_printed(self, data: bytes, waiting: tuple[str, ...]) -> None:
        for name in waiting:
            self._tasks[name].print(data)
        if self._preloaded is not None and self._preloaded.ready:
            text = data.decode(errors="replace").strip()
            self._emit(AgentNote("warning", f"the process that holds TensorFlow printed: {text}"))

    def _preload_started(self) -> None:
        preloaded = self._preloaded
        if preloaded is not None and preloaded.report_fd >= 0:
            preloaded.started()
            self._heed_preload(preloaded)

    def _preload_answered(self) -> None:
        preloaded = self._preloaded
        if preloaded is None or not preloaded.is_open:
            return
        for answer in preloaded.answers():
            self._forked(answer)
        self._heed_preload(preloaded)
        self.reap()  # nothing was reaped while a child that we did not know was on its way

    def _forked(self, answer: Forked | NotForked) -> None:
        task = self._tasks[answer.key]
        if isinstance(answer, Forked):
            task.started(answer.pid)
        else:
            task.kill(self._members()[task.name])  # it may have been forked, and the answer lost
            task.refuse(125, answer.reason)
        self._forget_cleared()

    def _heed_preload(self, preloaded: Preloaded) -> None:
        """End it if it has failed, or is not needed any more."""
        if preloaded.is_open and preloaded.failed is not None:
            self._end_preload(preloaded)
        elif preloaded.is_open and self._refusing is not None and not preloaded.is_forking:
            self._end_preload(preloaded, self._refusing)

    def _end_preload(self, preloaded: Preloaded, reason: str | None = None) -> None:
        """It has failed, or `reason` says why it is ended: its requests end, with what it printed before them. One that
        had forked a task, and so was of use, leaves them to another one.
        """
        preloaded.pipe.drain()
        open_requests = preloaded.close(reason)
        to_another = preloaded.has_forked and reason is None and self._refusing is None
        if reason is None and self._refusing is None and (to_another or not open_requests):
            self._emit(AgentNote("error", f"the process that imports TensorFlow is gone: {preloaded.failed}"))
        for answer in open_requests:
            task = self._tasks[answer.key]
            # A child of which it could not tell any more may be there: then it is too late.
            if to_another and task.kill_at is None and not self._members()[task.name]:
                self._start_warm(task)
            else:
                self._forked(answer)
        self._forget_cleared()

    # ---- ending

    def _look(self, now: float) -> None:
        """Look at the process table for what is left of the tasks that end."""
        members = self._members()
        for task in list(self._tasks.values()):
            if task.state is State.CLEARING:
                task.end_rest(now, members[task.name])
            elif task.is_overdue(now):
                task.kill(members[task.name])
                if task.pid is None and self._preloaded is not None:
                    self._end_preload(self._preloaded, "it did not answer in time")
        self._forget_cleared()
        if any(task.state is State.CLEARING or task.is_overdue(now) for task in self._tasks.values()):
            self._look_at = now + self._look_pause_s
            self._look_pause_s = min(1.5 * self._look_pause_s, _LOOK_AGAIN_S[1])
        else:
            self._look_at = math.inf

    def _look_soon(self) -> None:
        self._look_at = 0.0
        self._look_pause_s = _LOOK_AGAIN_S[0]

    def _members(self) -> dict[str, list[Process]]:
        """The living processes of each task."""
        return by_task(self._tasks.values(), self._preloaded.pid if self._preloaded is not None else None)

    def _forget_cleared(self) -> None:
        self._tasks = {name: task for name, task in self._tasks.items() if task.state is not State.CLEARED}

    def _pipes(self) -> Iterator[Pipe]:
        if self._preloaded is not None and self._preloaded.is_open and self._preloaded.pipe.is_open:
            yield self._preloaded.pipe
        for task in self._tasks.values():
            for pipe in (task.output, task.events):
                if pipe.is_open:
                    yield pipe
