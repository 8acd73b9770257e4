"""Injuries to a run that is watched recovering: which, when, and what came of each.

Decides from events and a seed alone, so that the same run is injured alike again. Harms nothing itself: the loop has
the agents do that, and cuts connections.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from distrain import wire
from distrain.launcher.events import Event

ANY = "any"


class Kind(StrEnum):
    """`kill` and `stop` are of tasks, the others of hosts."""

    KILL = "kill"
    STOP = "stop"
    CUT = "cut"
    FILL = "fill"
    SLOW = "slow"

    @property
    def of_tasks(self) -> bool:
        return self in (Kind.KILL, Kind.STOP)


@dataclass(frozen=True)
class Wish:
    """An injury that somebody wants to see. `whom`: a role, a task or a host; ANY. `delay_ms`: of SLOW."""

    kind: Kind
    whom: str = ANY
    delay_ms: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is done to a run: every `every_s` seconds on average one of `wishes`, as long as nothing else is the matter
    with it, or else with `while_recovering`; for `for_s` seconds from its first step on, None: to its end. What can be
    undone is, after `lasting_s`.
    """

    wishes: tuple[Wish, ...]
    every_s: float
    for_s: float | None = None
    times: int | None = None
    """No more than so many injuries."""
    lasting_s: float = 60.0
    seed: int = 1
    while_recovering: bool = False


@dataclass(frozen=True)
class Injury:
    """One of them: to `tasks`, all on `host`, or to the host itself."""

    kind: Kind
    host: str
    tasks: tuple[str, ...] = ()
    seconds: float = 0.0
    delay_ms: float = 0.0

    @property
    def targets(self) -> tuple[str, ...]:
        return self.tasks if self.kind.of_tasks else (self.host,)

    def __str__(self) -> str:
        extra = f" by {self.delay_ms:g} ms" if self.kind is Kind.SLOW else ""
        return f"{self.kind} {', '.join(self.targets)}{extra}"

    def order(self, folder: str | None) -> wire.Harm:
        """What its agent is told. `folder`: whose disk FILL fills, None: that of the run's folder there."""
        return wire.Harm(self.kind.value, self.tasks, self.seconds, self.delay_ms, folder or "")


@dataclass(frozen=True)
class Case:
    """What came of an injury; seconds count from it. `noticed`: what was told of it, None: nothing. `failed`: the run
    had to recover. `refused`: the place does not allow it, and nothing was done. `resumed_s`: until training was whole
    again, None: it never was. `steps_lost`: steps that were done a second time.
    """

    injury: Injury
    time: float
    attempt: int
    noticed: str | None = None
    detected_s: float | None = None
    failed: bool = False
    refused: bool = False
    resumed_s: float | None = None
    steps_lost: int = 0

    @property
    def is_over(self) -> bool:
        return self.resumed_s is not None or self.refused

    def to_json(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "attempt": self.attempt,
            "kind": self.injury.kind.value,
            "targets": list(self.injury.targets),
            "noticed": self.noticed,
            "detected_s": self.detected_s,
            "resumed_s": self.resumed_s,
            "steps_lost": self.steps_lost,
            "refused": self.refused,
        }


_FAILURES = frozenset({"task_failed", "preempting", "respawning"})
_UNDOING_S = 1.0
_WARNINGS = frozenset({"note", "agent_note", "straggler", "file_lost"})


class Chaos:
    """Follows a run as a sink does, and says when to injure it. `far`: the hosts that a connection leads to. `speaks`:
    the tasks tell of their steps; those of a program are taken to train when they run.
    """

    def __init__(self, plan: Plan, *, far: Collection[str] = (), speaks: bool = True) -> None:
        self.plan = plan
        self.cases: tuple[Case, ...] = ()
        self.began = 0.0
        """When the run did, in Unix seconds."""
        self._random = random.Random(plan.seed)
        self._far = frozenset(far)
        self._speaks = speaks
        self._attempt = 1
        self._host_of: dict[str, str] = {}
        """The tasks that are to run now, each with its host."""
        self._ready: set[str] = set()
        self._stepped = False
        self._failed = False
        """The attempt has, and its tasks are being stopped."""
        self._over = False
        self._was_training = False
        self._next_at: float | None = None
        self._until: float | None = None

    # ---- when, and what

    def due(self, time: float) -> tuple[Injury, ...]:
        """The injuries for now."""
        if self._next_at is None or time < self._next_at or self._over:
            return ()
        if (self._until is not None and time >= self._until) or len(self.cases) == self.plan.times:
            return ()
        if not self.plan.while_recovering and not (self._trains and all(case.is_over for case in self.cases)):
            return ()
        self._next_at = time + self._gap_s()
        injury = self._choose()
        if injury is None:
            return ()
        self.cases = (*self.cases, Case(injury, time, self._attempt))
        return (injury,)

    def _gap_s(self) -> float:
        return self.plan.every_s * self._random.uniform(0.5, 1.5)

    def _choose(self) -> Injury | None:
        """One that can be done now, of those that are wanted, all being as likely."""
        wishes = [(wish, found) for wish in self.plan.wishes if (found := self._candidates(wish))]
        if not wishes:
            return None
        wish, found = self._random.choice(wishes)
        whom = self._random.choice(found)
        if wish.kind.of_tasks:
            seconds = self.plan.lasting_s if wish.kind is Kind.STOP else 0.0
            return Injury(wish.kind, self._host_of[whom], (whom,), seconds)
        return Injury(wish.kind, whom, (), self.plan.lasting_s, wish.delay_ms)

    def _candidates(self, wish: Wish) -> list[str]:
        if wish.kind.of_tasks:
            return sorted(task for task in self._host_of if wish.whom in (ANY, task, task.partition(":")[0]))
        hosts = set(self._host_of.values())
        if wish.kind is Kind.CUT:
            hosts &= self._far
        return sorted(hosts if wish.whom == ANY else hosts & {wish.whom})

    @property
    def _trains(self) -> bool:
        """Every task takes part, and a step was made."""
        return self._stepped and not self._failed and bool(self._host_of) and self._host_of.keys() <= self._ready

    # ---- what happens, as a sink is told

    def event(self, event: Event) -> None:
        if event.task is not None and event.attempt < self._attempt:
            return  # of what has been cleared away
        match event.kind:
            case "run_started":
                self.began = event.time
            case "attempt_started":
                self._attempt, self._stepped, self._failed = event.attempt, False, False
                self._host_of, self._ready = {}, set()
            case "task_started" if event.task and event.host:
                self._host_of[event.task] = event.host
                if not self._speaks:
                    self._ready.add(event.task)
                    self._stepped = True
            case "ready" if event.task:
                self._ready.add(event.task)
            case "progress":
                self._stepped = True
            case "task_exited" if event.task in self._ready:
                del self._host_of[event.task]
                self._ready.remove(event.task)
            case "respawning" if event.task and event.host:
                # Alone; the others train on.
                self._host_of[event.task] = event.host
                self._ready.discard(event.task)
            case "task_failed" | "preempting":
                self._failed = True
            case "restarting":
                lost = max(0, event.data["step"] - event.data["from_step"])
                self._change(lambda case: replace(case, steps_lost=case.steps_lost + lost))
            case "harmed" if event.data["error"] is not None:
                self._refuse(event.data["injury"], event.host, str(event.data["error"]))
            case "stopping" | "run_ended":
                self._over = True
            case "done" if event.data:
                self._over = True
        self._notice(event)
        self._follow(event)

    def output(self, time: float, task: str, data: bytes) -> None:
        """Nothing is read out of what tasks print."""

    def tick(self, time: float) -> None:
        """Nothing happens by itself."""

    def close(self) -> bool:
        return True

    def _change(self, change: Callable[[Case], Case]) -> None:
        """Change every case that is not over."""
        self.cases = tuple(case if case.is_over else change(case) for case in self.cases)

    def _refuse(self, kind: str, host: str | None, error: str) -> None:
        struck = (kind, host, False)
        asked = next((c for c in self.cases if (c.injury.kind, c.injury.host, c.is_over) == struck), None)
        self._change(lambda case: replace(case, noticed=error, refused=True) if case is asked else case)

    def _notice(self, event: Event) -> None:
        """The first word of a failure counts; without one, that of a warning does."""
        failure = event.kind in _FAILURES
        if not failure and not (event.kind in _WARNINGS and event.data.get("level", "warning") == "warning"):
            return
        who, said = event.task or event.host, str(event.data.get("message") or event.kind)
        told = f"{who}: {said}" if who and not said.startswith(who) else said

        def heard(case: Case) -> Case:
            if case.failed or (not failure and case.noticed is not None):
                return case
            return replace(case, noticed=told, detected_s=event.time - case.time, failed=failure)

        self._change(heard)

    def _follow(self, event: Event) -> None:
        """Whether it trains now, and what that means for the injuries that it has had."""
        began, self._was_training = self._trains and not self._was_training, self._trains
        if began:
            if self._until is None and self.plan.for_s is not None:
                self._until = event.time + self.plan.for_s
            self._next_at = event.time + self._gap_s()

        def followed(case: Case) -> Case:
            if case.failed or case.attempt < self._attempt:
                return replace(case, resumed_s=event.time - case.time)
            # What did no harm is over when it is undone and a step has been made since. A kill always does some.
            undone_at = case.time + case.injury.seconds + _UNDOING_S
            harmless = case.injury.kind is not Kind.KILL and event.kind == "progress" and event.time > undone_at
            return replace(case, resumed_s=0.0) if harmless else case

        if self._trains:
            self._change(followed)


def verdict(cases: Sequence[Case], summary: Mapping[str, Any]) -> str:
    """What became of an injured run, whose `summary.json` is `summary`, in a sentence."""
    done = [case for case in cases if not case.refused]
    if not done:
        why = f": {cases[0].noticed}" if cases else ", since it did not train for long enough"
        return f"nothing was injured{why}"
    over = [case for case in done if case.resumed_s is not None]
    injuries = "1 injury" if len(done) == 1 else f"{len(done)} injuries"
    slowest = max((case.resumed_s or 0.0 for case in over), default=0.0)
    noticed = max((case.detected_s or 0.0 for case in over if case.failed), default=0.0)
    lost = sum(case.steps_lost for case in over)
    figures = f": noticed within {noticed:.1f} s, training again within {slowest:.1f} s, {lost} steps done twice"
    if not any(case.failed for case in done):
        figures = " without a failure"
    if summary["state"] == "failed":
        failure = summary.get("first_failure") or {}
        last = done[-1].injury if len(over) < len(done) else None
        after = f"; the last injury was: {last}" if last else ""
        return f"the run did not survive {injuries}{after}; {failure.get('message') or 'see its log'}"
    if len(over) < len(done):
        return f"the run ended before it had recovered from the last of {injuries}"
    return f"the run survived {injuries}{figures}"
