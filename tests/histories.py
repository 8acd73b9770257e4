"""Scripted histories against `decide`, with times of their own and no process."""

from __future__ import annotations

from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.state import Action, End, Policy, State, Stop, TaskState, Tell
from distrain.launcher.supervise import begin, decide

POLICY = Policy(failure_grace_s=3, stop_grace_s=8, finish_grace_s=10, settle_s=0.4, overdue_s=30, start_timeout_s=900)


class History:
    """Feeds events one by one and keeps what was decided, each action with its time."""

    def __init__(self, *tasks: TaskState, chief: str) -> None:
        self.state: State = begin(tasks, chief, time=0.0, policy=POLICY)
        self.actions: list[tuple[float, Action]] = []

    def at(self, time: float, kind: str, task: str | None = None, host: str | None = None, **data: Any) -> History:
        self.state, actions = decide(self.state, Event(time, kind, 1, task, host, data))
        self.actions += [(time, action) for action in actions]
        return self

    def running(self) -> History:
        for host in sorted(self.state.hosts):
            self.at(1.0, "host_prepared", host=host)
        if len(self.state.hosts) > 1:
            self.at(1.2, "hosts_connected")
        for task in self.state.tasks:
            self.at(1.5, "task_started", task, pid=1)
        for task in self.state.tasks:
            self.at(3.0, "ready", task)
        self.actions.clear()
        return self

    def cleared(self, time: float) -> History:
        for task in self.state.tasks.values():
            if not task.cleared:
                self.at(time, "task_cleared", task.name)
        return self

    @property
    def stops(self) -> list[tuple[float, Stop]]:
        return [(time, action) for time, action in self.actions if isinstance(action, Stop)]

    def told(self, kind: str) -> list[Tell]:
        return [action for _, action in self.actions if isinstance(action, Tell) and action.kind == kind]

    @property
    def over(self) -> bool:
        return any(isinstance(action, End) for _, action in self.actions)
