"""What a run looks like now, folded from its events. Pure and frozen: knows no terminal, no clock and no wording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.supervise.stragglers import Pace


@dataclass(frozen=True)
class TaskView:
    """One task. `examples_per_s` is its share of what the cluster does, `state` a word or a few."""

    name: str
    host: str
    state: str = "waiting"
    ready: bool = False
    failed: bool = False
    ended: bool = False
    step: int | None = None
    examples_per_s: float | None = None
    memory_bytes: int | None = None
    ratio: float | None = None
    """Its seconds of computing per step, by those of the others."""


@dataclass(frozen=True)
class Recovery:
    """What is made good: the failure at `failed_at`, after which the run goes on from `from_step`, and has caught up
    with itself at `furthest`. `resumes_at`: when its tasks start, if the hosts `missing` are back by then.
    """

    who: str
    cause: str
    failed_at: float
    resumes_at: float
    attempt: int
    from_step: int
    furthest: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """The whole run. Times are in Unix seconds; `epoch` counts from 1 and `step` from 0, as `progress` events do."""

    run: str = ""
    name: str = ""
    strategy: str = ""
    speaks: bool = True
    """Whether the tasks are distrain's own workers, and say what they are doing. A program may report, or not."""
    began: float = 0.0
    attempt: int = 0
    tasks: Mapping[str, TaskView] = field(default_factory=dict)
    epochs: int = 0
    steps_per_epoch: int | None = None
    planned_steps: int | None = None
    """As a user's script has told, which knows no `started`."""
    epoch: int = 0
    step: int = 0
    examples_per_s: float | None = None
    train: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    progress_at: float | None = None
    training_since: tuple[float, int] | None = None
    """Time and step of the attempt's first progress: compiling is behind it, so what follows predicts what is left."""
    stopping: str | None = None
    recovery: Recovery | None = None
    """None: it is not waiting, and has caught up."""
    pace: Pace = field(default_factory=Pace)
    first_failure: Mapping[str, Any] | None = None
    consequences: Mapping[str, str] = field(default_factory=dict)
    """What the peers of the first failure said then, by task."""
    model: str | None = None
    summary: Mapping[str, Any] | None = None
    """Set when the run has ended."""

    @property
    def steps(self) -> int | None:
        """How many steps the whole training has. None: not known yet."""
        if self.planned_steps is not None:
            return self.planned_steps
        return self.epochs * self.steps_per_epoch if self.epochs and self.steps_per_epoch else None

    def left_s(self, now: float) -> float | None:
        """Seconds of training that are left at `now`. None: nothing to tell it from."""
        if self.training_since is None or self.progress_at is None or self.steps is None:
            return None
        time, step = self.training_since
        if self.step <= step or self.progress_at <= time:
            return None
        at_progress_s = (self.steps - self.step) * (self.progress_at - time) / (self.step - step)
        return max(0.0, at_progress_s - max(0.0, now - self.progress_at))

    def after(self, event: Event) -> View:
        """The run after `event`."""
        data = event.data
        match event.kind:
            case "run_started":
                tasks = {name: TaskView(name, host) for name, host in data["tasks"]}
                return replace(
                    View(),  # of a run that is resumed, what was before is over
                    run=data["run"],
                    name=data["name"],
                    strategy=data.get("strategy", ""),
                    speaks=bool(data.get("epochs")),
                    epochs=data.get("epochs", 0),
                    began=event.time,
                    tasks=tasks,
                )
            case "attempt_started":
                tasks = {name: TaskView(name, task.host) for name, task in self.tasks.items()}
                return replace(
                    self,
                    attempt=event.attempt,
                    tasks=tasks,
                    step=data.get("from_step", 0),
                    training_since=None,
                    progress_at=None,
                    examples_per_s=None,
                    pace=Pace(),
                )
            case "restarting":
                return replace(
                    self,
                    recovery=_recovery(event),
                    first_failure=None,
                    consequences={},
                    stopping=None,
                    progress_at=None,
                )
            case "cluster_changed":
                tasks = {name: TaskView(name, host) for name, host in data["tasks"]}
                return replace(self, tasks=tasks)
            case "started":
                return replace(
                    self,
                    epochs=data["epochs"],
                    steps_per_epoch=data["steps_per_epoch"],
                    step=data["first_step"],  # a script may train more than once
                    training_since=None,
                )
            case "metrics":
                # One step's loss jumps about; what is shown is the epoch's so far.
                shown = {name: value for name, value in data["metrics"].items() if name != "step_loss"}
                if data["split"] == "validation":
                    return replace(self, validation=shown)
                return replace(self, train=shown)
            case "progress":
                return self._progress(event)
            case "model":
                return replace(self, model=data["path"])
            case "stopping":
                return replace(self, stopping=data["reason"])
            case "task_failed":
                return replace(self, first_failure=data)._task(event, failed=True, state=_ending(data))
            case "consequence":
                consequences = {**self.consequences, event.task or event.host or "": str(data["message"])}
                return replace(self, consequences=consequences)
            case "run_ended":
                return replace(self, summary=data)
            case _:
                return self._task_event(event)

    def _task_event(self, event: Event) -> View:
        data = event.data
        match event.kind:
            case "task_started":
                return self._task(event, state="starting" if self.speaks else "running", ended=False, failed=False)
            case "phase":
                return self._task(event, state=str(data["phase"]))
            case "ready":
                serves = data.get("replicas") == 0
                return self._task(event, state="serving" if serves else "ready", ready=True)
            case "usage":
                return self._task(event, memory_bytes=data["memory_bytes"])
            case "done":
                return self._task(event, state="done")
            case "preempted":
                return self._task(event, state="leaving")
            case "respawning":
                return self._task(event, failed=True, state="starting again")
            case "failure":
                return self._task(event, state="failing")
            case "task_exited":
                if data.get("expected"):
                    return self._task(
                        event, ended=True, memory_bytes=None, state="stopped" if self.stopping else "done"
                    )
                return self._task(event, ended=True, memory_bytes=None, failed=True, state=_ending(data))
            case _:
                return self

    def _progress(self, event: Event) -> View:
        data = event.data
        step = data["step"]
        reporting = {name for name, task in self.tasks.items() if task.examples_per_s is not None} | {event.task}
        rate = data.get("examples_per_s")
        share = rate / len(reporting) if rate is not None else None
        pace = self.pace.after(event)
        tasks = {name: replace(task, ratio=pace.ratios.get(name)) for name, task in self.tasks.items()}
        caught_up = self.recovery is not None and step > self.recovery.from_step and step >= self.recovery.furthest
        return replace(
            replace(self, tasks=tasks)._task(event, state="training", step=step, examples_per_s=share),
            pace=pace,
            recovery=None if caught_up else self.recovery,
            epoch=data["epoch"] or self.epoch,
            epochs=data.get("epochs") or self.epochs,
            planned_steps=data.get("steps") or self.planned_steps,
            step=max(step, self.step) if self.training_since else step,
            examples_per_s=rate if rate is not None else self.examples_per_s,
            progress_at=event.time,
            training_since=self.training_since or (event.time, step),
        )

    def _task(self, event: Event, **changes: Any) -> View:
        task = self.tasks.get(event.task or "")
        if task is None:
            return self
        return replace(self, tasks={**self.tasks, task.name: replace(task, **changes)})


def _recovery(event: Event) -> Recovery:
    data = event.data
    return Recovery(
        who=event.task or event.host or "all tasks",
        cause=data["cause"],
        failed_at=data["failed_at"],
        resumes_at=event.time + data["wait_s"],
        attempt=data["next_attempt"],
        from_step=data["from_step"],
        furthest=data["furthest"],
        missing=tuple(data["missing"]),
    )


def _ending(data: Mapping[str, Any]) -> str:
    """A few words for how a task ended; `data` as in `task_exited`."""
    if data.get("signal"):
        return str(data["signal"])
    if data.get("exit_code") is not None:
        return f"exited with {data['exit_code']}"
    return "failed"
