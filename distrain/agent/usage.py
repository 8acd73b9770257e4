"""What tasks use: memory, CPU time and traffic, and when that is looked at. Whose a process is, `members` knows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from distrain.agent import processes
from distrain.agent.processes import Process
from distrain.agent.task import State, Task
from distrain.agent.traffic import Traffic
from distrain.wire import Message, TaskEvent, TaskUsage

_INTERVAL_S = 1.0
_SHARE = 0.005
"""It is looked at less often where looking would cost more than this share of a core."""

_BEGINS, _ENDS = "ready", "done"
"""What a task says when its training begins and ends, which is where figures are to be known."""


class Usage:
    """`members` gives the living processes of each task, by its name."""

    def __init__(self, members: Callable[[], Mapping[str, Sequence[Process]]], emit: Callable[[Message], None]) -> None:
        self.due = math.inf
        """When (monotonic) `look` is to be called."""
        self._members = members
        self._emit = emit
        self._traffic = Traffic()
        self._marked: set[tuple[int, str]] = set()

    def begin(self) -> None:
        """There is a task now."""
        self.due = min(self.due, time.monotonic() + _INTERVAL_S)

    def look(self, tasks: Collection[Task]) -> None:
        """Tell what each of these, all that there are, uses."""
        before_s = time.thread_time()
        self._tell(tasks, tasks)
        pause_s = max(_INTERVAL_S, (time.thread_time() - before_s) / _SHARE)
        self.due = time.monotonic() + pause_s if tasks else math.inf

    def before(self, message: Message, tasks: Mapping[str, Task]) -> None:
        """A task is about to be quoted with this: if it marks where training begins or ends, tell what it uses. With
        the first that is done, tell what all use, as some leave without a word. Once for each: a program of the user's
        may say anything as often as it likes.
        """
        if not isinstance(message, TaskEvent) or message.kind not in (_BEGINS, _ENDS):
            return
        pids = {task.pid for task in tasks.values()}
        self._marked = {(pid, kind) for pid, kind in self._marked if pid in pids}
        task = tasks.get(message.task)
        if task is None or task.pid is None or (task.pid, message.kind) in self._marked:
            return
        all_end = message.kind == _ENDS and all(kind != _ENDS for _, kind in self._marked)
        self._marked.add((task.pid, message.kind))
        self._tell(tasks.values() if all_end else [task], tasks.values())

    def _tell(self, wanted: Collection[Task], tasks: Collection[Task]) -> None:
        if not any(task.state is State.RUNNING for task in wanted):
            return
        members = self._members()
        pids = {task.pid: [each.pid for each in members[task.name]] for task in tasks if task.pid is not None}
        traffic = self._traffic.sample(pids)
        for task in wanted:
            own = members[task.name]
            if task.pid is None or task.state is not State.RUNNING or not own:
                continue
            memory_bytes = sum(map(processes.memory_bytes, own))
            cpu_s = sum(process.cpu_s for process in own)
            stopped = any(process.pid == task.pid and process.stopped for process in own)
            sent, received = traffic[task.pid] or (None, None)
            self._emit(TaskUsage(task.name, task.attempt, memory_bytes, cpu_s, stopped, sent, received))
