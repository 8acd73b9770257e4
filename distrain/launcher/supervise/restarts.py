"""Whether a run goes on after a failure, and when: the budget of restarts, and what would only come again.

Pure. How it goes on is `waiting`'s.
"""

from __future__ import annotations

from dataclasses import replace

from distrain.errors import EXIT_USAGE
from distrain.job.spec import RESTARTED
from distrain.launcher.supervise.state import (
    Failure,
    Phase,
    Restart,
    State,
)

LONGEST_BACKOFF_S = 60.0
_MOST_DOUBLINGS = 60
EARLY_S = 30.0
"""What never tells of a step, and failed sooner after its start, is taken not to have got to one."""
MOST_PAST = 100
"""So many failures are remembered, the last of them."""
_MOST_TAILS = 10
"""So many of those, with the last words of their tasks."""

_CAUSES = {
    "signal": "crash",
    "exit": "crash",
    "exception": "crash",
    "early_exit": "crash",
    "checkpoint": "crash",
    "hang": "hang",
    "unresponsive": "hang",
    "start_timeout": "hang",
    "host": "host_lost",
    "preempted": "preempted",
    "nan": "nan",
    "unforked": "crash",
}


def cause_of(failure: Failure) -> str:
    """What `restart.on` calls a failure, or its own kind."""
    return _CAUSES.get(failure.kind, failure.kind)


def why_not(state: State, failure: Failure) -> str | None:
    """Why the run does not go on after `failure`, the rest of a sentence; "": it goes without saying. None: it does."""
    spec, cause = state.policy.restart, cause_of(failure)
    if spec is None or failure.kind not in _CAUSES:
        return ""
    if cause == "nan" and state.policy.watchdog.nan != "rollback":
        return ""
    if cause in RESTARTED and cause not in spec.on:
        return f"restart.on does not list {cause}"
    if state.phase is Phase.OPENING:
        return ""
    task = state.tasks.get(failure.task or "")
    alone = task is not None and task.starts_alone
    if state.phase is Phase.FINISHING and state.tasks[state.chief].cleared and not alone:
        return ""
    if _is_early(state, failure):
        return "it came before the first step, and would come again"
    if _came_before(state, failure):
        return "the same came at the same step before"
    if counts(state, failure) and len(_recent(state, failure)) >= spec.max:
        return f"no restart is left: restart.max is {spec.max} within {spec.window_s:g} s"
    return None


def restart_after(state: State, failure: Failure) -> Restart:
    """The restart after a failure that `why_not` says nothing against."""
    counted = counts(state, failure)
    before, skip_to = state.before, state.skip_to
    if failure.kind == "nan" and failure.step is not None:
        before = skip_to = failure.step
    elif failure.kind == "checkpoint":
        before = state.first_step
    at = failure.happened_at + (backoff_s(state, failure) if counted else 0.0)
    return Restart(at, failure, counted=counted, before=before, skip_to=skip_to)


def backoff_s(state: State, failure: Failure) -> float:
    """The pause before the next restart that counts."""
    assert state.policy.restart is not None
    doubled = min(len(counted_before(state, failure)), _MOST_DOUBLINGS)
    return min(state.policy.restart.backoff_s * 2.0**doubled, LONGEST_BACKOFF_S)


def counts(state: State, failure: Failure) -> bool:
    """Whether a restart after `failure` is one of at most so many, each with a longer pause before it. Whoever was
    asked to leave is owed another start, unless nothing has come of the last one: that would go on for ever.
    """
    if cause_of(failure) != "preempted":
        return True
    task = state.tasks.get(failure.task or "")
    if task is not None and task.attends:
        return failure.happened_at - task.started_at < EARLY_S
    if any(task.trains or task.step is not None for task in state.tasks.values()):
        return max(state.step, failure.step or 0) <= state.first_step
    return failure.happened_at - state.started_at < EARLY_S


def after_restart(state: State, failure: Failure, *, counted: bool) -> State:
    """With one more restart, for which `failure` is the reason."""
    older = (*state.past, failure)[-MOST_PAST:]
    past = (*(replace(old, log_tail=()) for old in older[:-_MOST_TAILS]), *older[-_MOST_TAILS:])
    state = replace(state, past=past, restarted=state.restarted + 1, furthest=max(state.furthest, state.step))
    if not counted:
        return state
    times = (*_recent(state, failure), failure.time)
    if _is_aside(state, failure):
        return state.with_task(failure.task or "", respawned=times)
    return replace(state, restarts=times)


def after_step(state: State, step: int) -> State:
    """The count is set back by an epoch's end that had not been come to before the last restart."""
    if (
        state.restarts
        and state.steps_per_epoch
        and step // state.steps_per_epoch > state.furthest // state.steps_per_epoch
    ):
        return replace(state, restarts=())
    return state


def counted_before(state: State, failure: Failure) -> tuple[float, ...]:
    """When restarts that count were made: of the run, or of the task aside that failed."""
    return state.tasks[failure.task or ""].respawned if _is_aside(state, failure) else state.restarts


def _is_aside(state: State, failure: Failure) -> bool:
    task = state.tasks.get(failure.task or "")
    return task is not None and task.aside


def _recent(state: State, failure: Failure) -> tuple[float, ...]:
    assert state.policy.restart is not None
    window_s = state.policy.restart.window_s
    return tuple(at for at in counted_before(state, failure) if failure.time - at < window_s)


def _is_early(state: State, failure: Failure) -> bool:
    """Whether the job itself is likely to be at fault: nothing of it has ever worked."""
    if failure.kind == "start_timeout":
        return state.furthest == 0
    task = state.tasks.get(failure.task or "")
    if failure.exit_code == EXIT_USAGE and task is not None and task.speaks:
        return True
    if task is None or not failure.cause or max(state.furthest, state.step) > 0:
        return False
    if task.speaks:
        return failure.kind in ("exception", "exit")
    return failure.kind == "exception" and failure.time - state.started_at < EARLY_S


def _came_before(state: State, failure: Failure) -> bool:
    if failure.kind not in ("exception", "nan", "checkpoint") or not state.past:
        return False
    last = state.past[-1]
    return (last.kind, last.message, last.step) == (failure.kind, failure.message, failure.step)
