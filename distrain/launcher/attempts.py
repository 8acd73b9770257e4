"""What an attempt is made of: the job as the hosts that are there allow it, its plan, and what it goes on from.

Does what the loop is told to do about that, and gives back what comes of it as events. When, is `supervise`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distrain import wire
from distrain.errors import DistrainError
from distrain.job.cluster import Placement, chief_of, evaluates, place, serves, shrunk, starts_alone
from distrain.job.plan import Plan, make_plan
from distrain.job.spec import JobSpec
from distrain.launcher.aside import Aside
from distrain.launcher.events import Event, now
from distrain.launcher.hosts.hosts import Heard, Hosts
from distrain.launcher.outset import Outset
from distrain.launcher.runs.checkpoints import Checkpoint, choose
from distrain.launcher.supervise.state import State, TaskState


class Attempts:
    """The attempts of the run that `outset` begins."""

    def __init__(self, outset: Outset) -> None:
        self._outset = outset
        self._rundir = outset.rundir
        self._lay_out(outset.job)
        self.hosts = Hosts(outset, self._placements)
        self._plan: Plan | None = None
        self._checkpoint: Checkpoint | None = None
        self._choice: Aside[tuple[Checkpoint | None, tuple[str, ...]]] | None = None

    def _lay_out(self, job: JobSpec) -> None:
        self._job = job
        self._placements: tuple[Placement, ...] = place(job)
        self.host_of: Mapping[str, str] = {str(p.task): p.host.name for p in self._placements}

    @property
    def chief(self) -> str:
        return str(chief_of([placement.task for placement in self._placements]))

    def tasks(self) -> tuple[TaskState, ...]:
        """The tasks as they are laid out now, none of them started."""
        job = self._job
        return tuple(
            TaskState(
                str(p.task),
                p.host.name,
                serves=serves(job, p.task),
                aside=evaluates(job, p.task),
                starts_alone=starts_alone(job, p.task),
                speaks=job.program is None,
            )
            for p in self._placements
        )

    def reshape(self, gone: frozenset[str]) -> Event:
        """Lay the tasks out without the hosts that are `gone`."""
        job = shrunk(self._outset.job, gone) if gone else self._outset.job
        if job is None:
            return Event(now(), "cluster_changed", data={"tasks": None})
        self._lay_out(job)
        preparing = self.hosts.lay_out(self._placements)
        laid_out = {"tasks": self.tasks(), "gone": gone, "preparing": preparing, "chief": self.chief}
        return Event(now(), "cluster_changed", data=laid_out)

    # ---- the checkpoint to go on from

    def choose(self, before: int | None) -> None:
        """Begin to look for it. Reading it to its end takes time, in which the hosts must go on hearing of us."""
        program = self._job.program is not None
        self._choice = Aside(lambda: (None, ()) if program else choose(self._rundir, self._outset.job, before=before))

    def chosen(self) -> Event | None:
        """What was found, once."""
        if self._choice is None or not self._choice.is_done:
            return None
        self._checkpoint, damaged = self._choice.result()
        self._choice = None
        found = self._checkpoint
        name, step = (None, 0) if found is None else (found.name, found.step)
        return Event(now(), "checkpoint_chosen", data={"name": name, "step": step, "damaged": damaged})

    def send_checkpoint(self) -> Iterator[Heard]:
        assert self._checkpoint is not None
        if self._job.checkpoint is not None and self._job.checkpoint.path is not None:  # every host sees it there
            yield Event(now(), "checkpoint_sent")
        else:
            yield from self.hosts.send_checkpoint(self._checkpoint.path)

    # ---- the start

    def plan(self, state: State) -> Iterator[Event]:
        """Make the plan of the attempt that `state` is in.

        Raises:
            DistrainError: it cannot be written, and no attempt was before.
        """
        resume = state.restart.resume if state.restart is not None else None
        self._plan = make_plan(
            self._job,
            self._placements,
            self.hosts.addresses(),
            run=self._rundir.name,
            attempt=state.attempt,
            facts=self.hosts.facts(),
            resume=resume,
        )
        try:
            self._rundir.write_plan(self._plan.to_json())
        except DistrainError as error:
            if not state.restarted:
                raise
            yield Event(now(), "note", data={"level": "warning", "message": f"{error}; the run goes on"})
        checkpoint = resume.name if resume is not None else None
        yield Event(now(), "attempt_started", data={"from_step": state.first_step, "checkpoint": checkpoint})

    def start(self, names: tuple[str, ...]) -> None:
        """Start these tasks of the plan, all of them where none is named."""
        assert self._plan is not None
        for task in self._plan.tasks:
            name = str(task.task)
            if not names or name in names:
                attempt = self._plan.attempt
                order = wire.StartTask(name, attempt, task.argv, task.env, task.cwd, task.warm, task.stdin())
                self.hosts.send(task.host, order)
