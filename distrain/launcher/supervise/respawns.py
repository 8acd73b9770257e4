"""A task that is started again alone while the others go on: a ParameterServer's worker, which its chief can miss.

Pure, as all that `supervise` decides with.
"""

from __future__ import annotations

from dataclasses import replace

from distrain.launcher.supervise.actions import AskForStacks, Tell
from distrain.launcher.supervise.restarts import after_restart, backoff_s, cause_of, counts, why_not
from distrain.launcher.supervise.state import (
    Decision,
    Failure,
    Phase,
    State,
)


def concerns(state: State, name: str | None) -> bool:
    """Whether this task, if it fails, is one that the run goes on without for a while."""
    task = state.tasks.get(name or "")
    if task is None or state.phase is not Phase.RUNNING or state.policy.restart is None:
        return False
    return task.speaks and task.serves and task.name.startswith("worker:")


def after(state: State, failure: Failure) -> Decision | None:
    """Have the task that failed started again as soon as it is cleared. None: that is not possible.

    One that hangs is asked where it is first, and then ended.
    """
    if not concerns(state, failure.task) or why_not(state, failure) is not None:
        return None
    assert failure.task is not None
    counted = counts(state, failure)
    wait_s = backoff_s(state) if counted else 0.0
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
        "restarts": len(state.restarts),
        "max": spec.max,
        "failed_at": failure.happened_at,
        "detected_s": round(failure.age_s, 3),
    }
    tell = Tell("respawning", failure.task, failure.host, data)
    if state.tasks[failure.task].exited:
        return state, (tell,)
    state = replace(state, stacks_awaited=frozenset((failure.task,)), stacks_by=failure.time + state.policy.stacks_s)
    return state, (tell, AskForStacks((failure.task,)))
