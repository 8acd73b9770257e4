"""A task that is started again alone while the others go on: one that they can miss for a while, such as a
ParameterServer's worker, or one aside, such as an evaluator, which they can do without for good.

Pure, as all that `supervise` decides with.
"""

from __future__ import annotations

from dataclasses import replace

from distrain.launcher.supervise.actions import AskForStacks, Stop, Tell
from distrain.launcher.supervise.restarts import after_restart, backoff_s, cause_of, counted_before, counts, why_not
from distrain.launcher.supervise.state import (
    Decision,
    Failure,
    Phase,
    State,
)


def concerns(state: State, name: str | None) -> bool:
    """Whether this task, if it fails, is one that the run goes on without, for a while or for good."""
    task = state.tasks.get(name or "")
    if task is None or not task.starts_alone:
        return False
    if task.aside:
        return state.phase in (Phase.RUNNING, Phase.FINISHING)
    needed = state.phase is Phase.RUNNING or (state.phase is Phase.FINISHING and task.feeds and bool(state.evaluating))
    return needed and state.policy.restart is not None


def after(state: State, failure: Failure) -> Decision | None:
    """Have the task that failed started again as soon as it is cleared, or one aside be missed. None: neither is
    possible.

    One that hangs is asked where it is first, and then ended.
    """
    if not concerns(state, failure.task):
        return None
    assert failure.task is not None
    refused = why_not(state, failure)
    if refused is not None:
        return give_up(state, failure, refused) if state.tasks[failure.task].aside else None
    counted = counts(state, failure)
    wait_s = backoff_s(state, failure) if counted else 0.0
    state = after_restart(state, failure, counted=counted)
    state = state.with_task(failure.task, respawn=failure, respawn_at=failure.happened_at + wait_s)
    spec = state.policy.restart
    assert spec is not None
    data = {
        "cause": cause_of(failure),
        "message": failure.message,
        "exit_code": failure.exit_code,
        "signal": failure.signal,
        "counted": counted,
        "restarts": len(counted_before(state, failure)),
        "max": spec.max,
        "failed_at": failure.happened_at,
        "detected_s": round(failure.age_s, 3),
    }
    tell = Tell("respawning", failure.task, failure.host, data)
    if state.tasks[failure.task].exited:
        return state, (tell,)
    state = replace(state, stacks_awaited=frozenset((failure.task,)), stacks_by=failure.time + state.policy.stacks_s)
    return state, (tell, AskForStacks((failure.task,)))


def give_up(state: State, failure: Failure, why: str = "") -> Decision:
    """The others go on, or come to their end, without the task aside that failed. `why`: it is not started again."""
    assert failure.task is not None
    state = state.with_task(failure.task, given_up=True, ready=True, done=True, respawn=None)
    message = f"{failure.message}; {f'{why}; ' if why else ''}the run goes on without it"
    tell = Tell("note", failure.task, failure.host, {"level": "warning", "message": message})
    if state.tasks[failure.task].exited:
        return state, (tell,)
    return state, (tell, Stop((failure.task,), grace_s=state.policy.failure_grace_s))
