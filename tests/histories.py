"""Scripted histories against `decide`, with times of their own and no process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distrain.job.spec import RestartSpec
from distrain.launcher.events import Event
from distrain.launcher.supervise.actions import (
    Action,
    End,
    Stop,
    Tell,
)
from distrain.launcher.supervise.decide import begin, decide
from distrain.launcher.supervise.state import (
    Phase,
    Policy,
    State,
    TaskState,
)

POLICY = Policy(failure_grace_s=3, stop_grace_s=8, finish_grace_s=10, settle_s=0.4, overdue_s=30, start_timeout_s=900)


class History:
    """Feeds events one by one and keeps what was decided, each action with its time."""

    def __init__(self, *tasks: TaskState, chief: str, **policy: Any) -> None:
        """`policy`: what is not as in POLICY."""
        self.state: State = begin(tasks, chief, time=0.0, policy=replace(POLICY, **policy))
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

    def training(self, step: int = 1, *, time: float = 4.0) -> History:
        """All are running, and have made so many steps, in epochs of 10."""
        if self.state.phase is not Phase.RUNNING:
            self.running()
        self.at(time, "started", self.state.chief, first_step=self.state.first_step, steps_per_epoch=10)
        for task in self.state.tasks.values():
            if task.trains:
                self.at(time, "progress", task.name, step=step)
        self.actions.clear()
        return self

    def killed(self, time: float, task: str, signal: str = "SIGKILL") -> History:
        return self.at(time, "task_exited", task, exit_code=None, signal=signal)

    def down(self, time: float) -> History:
        """All tasks end, as they were told, and nothing is left of them."""
        for task in self.state.tasks.values():
            if not task.exited:
                self.killed(time, task.name)
        return self.cleared(time)

    def chosen(self, time: float, step: int | None) -> History:
        """The checkpoint to go on from is found, or there is none."""
        name = None if step is None else f"step-{step:08d}"
        return self.at(time, "checkpoint_chosen", name=name, step=step or 0, damaged=()).at(time, "checkpoint_sent")

    def ready_again(self, time: float) -> History:
        for name in self.state.tasks:
            self.at(time, "ready", name)
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

    def took(self, kind: type[Action]) -> list[float]:
        """When an action of that kind was taken."""
        return [time for time, action in self.actions if isinstance(action, kind)]

    @property
    def over(self) -> bool:
        return any(isinstance(action, End) for _, action in self.actions)


RESTART = RestartSpec(max=3, window_s=100.0, backoff_s=1.0)


def workers(count: int = 2, **policy: Any) -> History:
    tasks = (TaskState(f"worker:{index}", "local") for index in range(count))
    return History(*tasks, chief="worker:0", **{"restart": RESTART, **policy})


def on_hosts(*hosts: str, **policy: Any) -> History:
    tasks = (TaskState(f"worker:{index}", host) for index, host in enumerate(hosts))
    return History(*tasks, chief="worker:0", **{"restart": RESTART, **policy})


def program(*names: str, **policy: Any) -> History:
    tasks = (TaskState(name, "local", speaks=False) for name in names)
    return History(*tasks, chief=names[0], **{"restart": RESTART, **policy})


def parameter_server(**policy: Any) -> History:
    return History(
        TaskState("chief:0", "local"),
        TaskState("worker:0", "local", serves=True, starts_alone=True),
        TaskState("worker:1", "local", serves=True, starts_alone=True),
        TaskState("ps:0", "local", serves=True),
        chief="chief:0",
        **{"restart": RESTART, **policy},
    )


def crashed_once(history: History, time: float, step: int | None) -> History:
    """A worker is killed, and the next attempt is ready to train."""
    history.killed(time, "worker:1").down(time + 0.1).chosen(time + 0.2, step).at(time + 60.0, "tick")
    return history.ready_again(time + 61.0)
