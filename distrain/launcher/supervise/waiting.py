"""From hosts that are opened to tasks that are started, for the first attempt and for each after it.

Owns what must be there before tasks start: every host, addresses by which they reach each other, the checkpoint to go
on from, and the time. Pure, as all that `supervise` decides with.
"""

from __future__ import annotations

from dataclasses import replace

from distrain.job.plan import Resume
from distrain.launcher.events import Event
from distrain.launcher.supervise import respawns
from distrain.launcher.supervise.actions import (
    Action,
    ChooseCheckpoint,
    ConnectHosts,
    DropHosts,
    OpenHosts,
    Reshape,
    SendCheckpoint,
    StartTasks,
    Tell,
    TryTasks,
)
from distrain.launcher.supervise.restarts import after_restart, cause_of
from distrain.launcher.supervise.state import (
    Decision,
    Failure,
    Phase,
    Restart,
    Retry,
    State,
    TaskState,
    Then,
)
from distrain.launcher.supervise.stopping import fail

# ---- the next attempt


def wait(state: State, time: float) -> Decision:
    """Nothing is left of an attempt that is to be followed by another one."""
    restart = state.restart
    assert restart is not None
    assert restart.failure is not None
    state = after_restart(state, restart.failure, counted=restart.counted)
    missing = state.hosts - state.hosts_prepared
    open_now = missing | state.gone
    state = replace(
        state,
        phase=Phase.WAITING,
        finishing_since=None,
        failures=(),
        failure_told=False,
        hosts_failed=frozenset(),
        leaving=False,
        attending_last=False,
        deadline=None,
        began=time,
        overdue_told=time,
        before=restart.before,
        skip_to=restart.skip_to,
        retries={host: Retry(float("inf"), time) for host in missing},
        returning=state.gone,
        return_by=max(restart.at, time + state.policy.return_s),
        too_few=False,
    )
    actions: tuple[Action, ...] = (OpenHosts(tuple(sorted(open_now))),) if open_now else ()
    return state, actions


def checkpoint_chosen(state: State, event: Event) -> Decision:
    """Which checkpoint to go on from is known: `name` None: from none."""
    restart = state.restart
    if not state.nothing_runs or restart is None:
        return state, ()
    notes = tuple(Tell("note", data={"level": "warning", "message": text}) for text in event.data["damaged"])
    name, step = event.data["name"], event.data["step"]
    resume = Resume(name, restart.skip_to) if name is not None else None
    step = max(step, restart.skip_to or 0) if name is not None else 0
    restart = replace(restart, chosen=True, resume=resume, step=step, sent=resume is None)
    state = replace(state, restart=restart)
    if restart.failure is None:
        return state, notes
    return state, (*notes, _restarting(state, restart, restart.failure, event.time))


def _restarting(state: State, restart: Restart, failure: Failure, time: float) -> Tell:
    spec = state.policy.restart
    data = {
        "cause": cause_of(failure),
        "next_attempt": state.attempt + 1,
        "from_step": restart.step,
        "checkpoint": restart.resume.name if restart.resume else None,
        "wait_s": round(max(0.0, restart.at - time), 3),
        "counted": restart.counted,
        "restarts": len(state.restarts),
        "max": spec.max if spec is not None else 0,
        "failed_at": failure.happened_at,
        "detected_s": round(failure.age_s, 3),
        "step": state.step,
        "furthest": state.furthest,
        "missing": sorted(state.hosts - state.hosts_prepared),
    }
    return Tell("restarting", failure.task, failure.host, data)


def checkpoint_sending(state: State, event: Event) -> Decision:
    """Some more of the checkpoint has got to these hosts, which lack the rest."""
    if state.restart is None or not state.restart.sending:
        return state, ()
    receivers = tuple(event.data["hosts"])
    return replace(state, restart=replace(state.restart, receivers=receivers, moved_at=event.time)), ()


def checkpoint_sent(state: State, event: Event) -> Decision:
    if state.restart is None or not state.restart.sending:
        return state, ()
    return replace(state, restart=replace(state.restart, sending=False, sent=True)), ()


# ---- the start


def advance(state: State, time: float) -> Decision:
    """The next thing to do on the way to the start of the tasks, if it can be done now."""
    if not state.nothing_runs or state.failures or state.reshaping:
        return state, ()
    restart = state.restart
    if restart is not None and not restart.choosing:
        state, actions = advance(replace(state, restart=replace(restart, choosing=True, moved_at=time)), time)
        return state, (ChooseCheckpoint(restart.before), *actions)
    if state.hosts - state.hosts_prepared:
        return state, ()
    if back := state.returning:
        if not back <= state.hosts_prepared and time < state.return_by:
            return state, ()
        back &= state.hosts_prepared
        state = replace(state, returning=frozenset())
        late = tuple(sorted(state.gone - back))
        drop: tuple[Action, ...] = (DropHosts(late),) if late else ()
        if back:
            return replace(state, reshaping=True), (*drop, Reshape(state.gone - back))
        if drop:
            then, actions = advance(state, time)
            return then, (*drop, *actions)
    if not state.connected and len(state.hosts) > 1:
        if state.connecting:
            return state, ()
        state = state.with_host(None, doing="waiting for its host to reach the others")
        restart = restart and replace(restart, moved_at=time)
        return replace(state, connecting=True, restart=restart), (ConnectHosts(),)
    if restart is not None:
        if not restart.chosen or restart.sending:
            return state, ()
        if restart.resume is not None and not restart.sent:
            send = SendCheckpoint(restart.resume.name)
            restart = replace(restart, sending=True, receivers=(), moved_at=time)
            return replace(state, restart=restart), (send,)
        if time < restart.at:
            return state, ()
    return _start(state, time)


def _start(state: State, time: float) -> Decision:
    restart = state.restart
    again = state.phase is Phase.WAITING
    step = restart.step if restart is not None else 0
    state = replace(
        state,
        phase=Phase.RUNNING,
        then=Then.END,
        attempt=state.attempt + again,
        began=time if again else state.began,
        overdue_told=time if again else state.overdue_told,
        started_at=time,
        tasks={name: task.anew(time) for name, task in state.tasks.items()},
        retries={},
        owing=frozenset(),
        first_step=step,
        step=step,
        watch=state.watch.over(),
        pace=type(state.pace)(),
    )
    return state, (StartTasks(),)


def task_may_start(state: State, time: float) -> Decision:
    """Tasks that are started again alone, whose time has come."""
    due = tuple(
        task.name
        for task in state.tasks.values()
        if task.respawn is not None and task.cleared and time >= task.respawn_at
    )
    for name in due:
        state = replace(state, tasks={**state.tasks, name: state.tasks[name].anew(time)})
    if not due:
        return state, ()
    state = replace(state, owing=state.owing - {state.tasks[name].host for name in due})
    return replace(state, began=time, overdue_told=time), (StartTasks(due),)


# ---- what is late


def overdue(state: State, now: float) -> Decision:
    """Name who is missing, and what is known of each."""
    if state.nothing_runs and _awaited(state) is not None:
        return late(state, now)
    missing = [task for task in state.tasks.values() if not task.ready]
    what = ", ".join(map(_missing, missing))
    if now - state.began >= state.policy.start_timeout_s:
        needed = [task for task in missing if not task.aside] or missing
        # Who waits for others is not what they all wait for.
        first = next((task for task in needed if task.doing != "connecting"), needed[0])
        message = f"not ready after {state.policy.start_timeout_s:g} s: waiting for {what}"
        if state.phase is Phase.OPENING:
            first = next((task for task in missing if task.host not in state.hosts_prepared), first)
            message = f"{first.host}: {message}; `distrain doctor --workers {first.host}` may tell why"
            return fail(state, Failure(now, None, first.host, state.attempt, "host", message))
        failure = Failure(now, first.name, first.host, state.attempt, "start_timeout", message)
        if first.aside:
            return respawns.after(state, failure) or fail(state, failure)
        if any(task.doing == first.doing for task in needed if task is not first):  # nobody stands out
            failure = replace(failure, task=None, host=None)
        return fail(state, failure)
    if now - state.overdue_told < state.policy.overdue_s:
        return state, ()
    message = f"waiting for {what} ({now - state.began:.0f} s after the start)"
    tell = Tell("note", data={"level": "info", "message": message})
    actions = (tell, TryTasks(tuple(task.name for task in missing))) if state.phase is Phase.RUNNING else (tell,)
    return replace(state, overdue_told=now), actions


def late(state: State, now: float) -> Decision:
    """Every host is there, and no task has been started: say what it is that takes so long."""
    awaited, restart = _awaited(state), state.restart
    if awaited is None or restart is None or state.failures:
        return state, ()
    still_s = now - restart.moved_at
    if still_s >= state.policy.start_timeout_s:
        message = f"{awaited} has not got on for {still_s:.0f} s"
        if restart.sending and restart.receivers:
            host = restart.receivers[0]
            return fail(state, Failure(now, None, host, state.attempt, "host", f"{host}: {message}"))
        return fail(state, Failure(now, None, None, state.attempt, "start_timeout", message))
    if now - state.overdue_told < state.policy.overdue_s:
        return state, ()
    since = "the start" if state.phase is Phase.OPENING else "the end of the attempt before"
    message = f"{awaited} ({now - state.began:.0f} s after {since})"
    return replace(state, overdue_told=now), (Tell("note", data={"level": "info", "message": message}),)


def _awaited(state: State) -> str | None:
    """What the start of the tasks waits for, when it is neither a host nor the end of a pause."""
    restart = state.restart
    if restart is None or state.hosts - state.hosts_prepared:
        return None
    if state.connecting:
        return "finding how the hosts reach each other"
    if not restart.chosen:
        return "choosing the checkpoint"
    if restart.sending:
        return f"sending the checkpoint to {', '.join(restart.receivers) or 'the hosts'}"
    return None


def _missing(task: TaskState) -> str:
    reach = f", {task.reach}" if task.reach and task.doing == "connecting" else ""
    return f"{task.name} on {task.host}: {task.doing}{reach}"
