"""What a run that makes no steps any more means for it: which tasks are at fault, and whether it is a failure at all.

Pure, as all that `supervise` decides with. How long is too long is `watchdog`'s.
"""

from __future__ import annotations

from dataclasses import replace

from distrain.launcher.supervise import respawns
from distrain.launcher.supervise.state import Decision, Failure, State, TaskState
from distrain.launcher.supervise.stopping import fail
from distrain.launcher.supervise.watchdog import EVALUATION, LEAST_STOPPED_S, culprits

_STOOD_STILL_S = 2.0
"""Ticks come several times a second: after a longer pause, it was the launcher that stood still."""


def at_tick(state: State, now: float) -> State:
    """Time that nobody could be heard in is nobody's fault."""
    gap_s = 0.0 if state.ticked_at is None else now - state.ticked_at
    state = replace(state, ticked_at=now)
    if gap_s <= _STOOD_STILL_S:
        return state
    tasks = {
        name: replace(task, pulse_at=_later(task.pulse_at, gap_s), told_at=_later(task.told_at, gap_s))
        for name, task in state.tasks.items()
    }
    return replace(state, watch=state.watch.paused(gap_s), tasks=tasks)


def _later(time: float | None, gap_s: float) -> float | None:
    return None if time is None else time + gap_s


def look_aside(state: State, now: float) -> Decision:
    """A task aside makes no steps, and nobody waits for it before the others are done: it is missed when it is silent,
    evaluates for too long, or at the end has nothing to tell any more.
    """
    spec, policy = state.policy.watchdog, state.policy
    patience_s = state.watch.evaluation_s(fixed_s=spec.step_timeout_s, start_timeout_s=policy.start_timeout_s)
    for task in state.evaluating:
        if task.exited or task.respawn is not None or task.given_up or state.failures:
            continue
        stood = spec.step_timeout_s is None and (state.watch.stepped or task.stopped)
        silent_s = LEAST_STOPPED_S if stood else patience_s
        if task.ready and task.pulse_at is not None and now - task.pulse_at > silent_s:
            failure = _silent(state, task, now - task.pulse_at, now)
            return respawns.after(state, failure) or (state, ())
        still_s = now - max(task.told_at or task.started_at, state.finishing_since or 0.0)
        if still_s <= patience_s or (state.finishing_since is None and task.doing != EVALUATION):
            continue
        message = f"has told of nothing for {still_s:.0f} s, and is {task.doing}"
        failure = Failure(now, task.name, task.host, state.attempt, "hang", message, step=state.step, age_s=still_s)
        if state.finishing_since is not None:
            return respawns.give_up(state, failure)
        return respawns.after(state, failure) or (state, ())
    return state, ()


def _silent(state: State, task: TaskState, age_s: float, now: float) -> Failure:
    message = f"has said nothing for {age_s:.0f} s" + (", it stands still" if task.stopped else "")
    return Failure(now, task.name, task.host, state.attempt, "hang", message, step=state.step, age_s=age_s)


def look(state: State, now: float) -> Decision:
    """No task makes steps any more, or one that serves has gone silent."""
    watch = state.watch
    if watch.moved_at is None or state.failures:
        return state, ()
    running = [task for task in state.tasks.values() if not task.exited and task.respawn is None]
    training = [task for task in running if task.trains and not task.done]
    spec = state.policy.watchdog
    if not training:  # a program, which is watched when the job says for how long, and it has told of steps
        reporting = any(task.step is not None for task in running)
        if not reporting or spec.step_timeout_s is None or not watch.stepped:
            return state, ()
    limit_s = watch.limit_s(training, fixed_s=spec.step_timeout_s, start_timeout_s=state.policy.start_timeout_s)
    silent_s = LEAST_STOPPED_S if spec.step_timeout_s is None and watch.stepped else limit_s
    for task in running:
        if task.serves and task.pulse_at is not None and now - task.pulse_at > silent_s:
            failure = _silent(state, task, now - task.pulse_at, now)
            return respawns.after(state, failure) or fail(state, failure)
    still_s = now - watch.moved_at
    if still_s <= limit_s:
        return state, ()
    names, why = culprits([task for task in running if not task.aside], now)
    subject = "" if len(names) == 1 else f" ({', '.join(names)})"
    message = f"made no step for {still_s:.0f} s: {why}{subject}"
    if spec.step_timeout_s is None:
        message += "; if that is no hang, set watchdog.step_timeout_s to more"
    failure = Failure(now, None, None, state.attempt, "hang", message, step=state.step, age_s=still_s)
    if len(names) == 1:
        failure = replace(failure, task=names[0], host=state.tasks[names[0]].host)
    return fail(state, failure)
