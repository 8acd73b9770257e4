"""The only place that decides: `decide(state, event) -> (state, actions)`, pure, on frozen values.

Owns what a run's events mean: when tasks may start, what counts as a failure, which failure was the cause, when to
stop and when it is over. Does nothing itself: the loop carries the actions out and feeds back what happens. Time is
read from the events alone, so that a scripted history replays exactly.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.failures import failure_of, silent_peer, tail_of
from distrain.launcher.state import (
    Abandon,
    Action,
    ConnectHosts,
    End,
    Failure,
    Phase,
    Policy,
    StartTasks,
    State,
    Stop,
    TaskState,
    Tell,
    TryTasks,
)

Decision = tuple[State, tuple[Action, ...]]


def begin(tasks: Iterable[TaskState], chief: str, *, time: float, policy: Policy | None = None) -> State:
    """The state of a run whose hosts are being opened."""
    by_name = {task.name: task for task in tasks}
    return State(
        policy=policy or Policy(),
        chief=chief,
        tasks=by_name,
        hosts=frozenset(task.host for task in by_name.values()),
        began=time,
        overdue_told=time,
    )


def decide(state: State, event: Event) -> Decision:
    """What `event` changes and what is to be done about it."""
    if state.phase is Phase.ENDED:
        return state, ()
    handle = _HANDLERS.get(event.kind)
    state, actions = handle(state, event) if handle else (state, ())
    state, told = _tell_failure(state, event.time)
    state, ended = _end_if_over(state)
    return state, (*actions, *told, *ended)


# ---- hosts


def _host_opened(state: State, event: Event) -> Decision:
    return _on_host(state, event.host, doing="waiting for its host to be prepared"), ()


def _host_prepared(state: State, event: Event) -> Decision:
    assert event.host is not None
    state = replace(state, hosts_prepared=state.hosts_prepared | {event.host})
    if state.phase is not Phase.OPENING or state.hosts_prepared != state.hosts:
        return _on_host(state, event.host, doing="waiting for the other hosts"), ()
    if state.failures:
        return state, ()
    if len(state.hosts) == 1:
        return _start(state)
    return _on_host(state, None, doing="waiting for its host to reach the others"), (ConnectHosts(),)


def _hosts_connected(state: State, event: Event) -> Decision:
    return _start(state) if state.phase is Phase.OPENING else (state, ())


def _start(state: State) -> Decision:
    return _on_host(replace(state, phase=Phase.RUNNING), None, doing="starting"), (StartTasks(),)


def _on_host(state: State, host: str | None, **changes: Any) -> State:
    """`state` with changes to all tasks of a host, or of all hosts."""
    tasks = {
        name: replace(task, **changes) if host in (None, task.host) else task for name, task in state.tasks.items()
    }
    return replace(state, tasks=tasks)


def _host_lost(state: State, event: Event) -> Decision:
    """The connection to a host is gone; its agent ends what it had. Nothing more will be heard of its tasks."""
    here = [task for task in state.tasks.values() if task.host == event.host]
    if here and all(task.cleared for task in here) and not state.failures:
        return state, ()  # all that it had to do is done
    return _host_ending(_on_host(state, event.host, exited=True, cleared=True), event)


def _host_ending(state: State, event: Event) -> Decision:
    """An agent ends though nobody asked for it. Its tasks' ends, which may still be heard of, follow from that."""
    assert event.host is not None
    if state.phase is Phase.STOPPING:
        return state, ()
    failure = Failure(event.time, None, event.host, state.attempt, "host", str(event.data["message"]))
    return _fail(replace(state, hosts_failed=state.hosts_failed | {event.host}), failure)


# ---- tasks


def _changed(state: State, event: Event, **changes: Any) -> State:
    assert event.task is not None
    tasks = {**state.tasks, event.task: replace(state.tasks[event.task], **changes)}
    return replace(state, tasks=tasks)


def _task_started(state: State, event: Event) -> Decision:
    assert event.task is not None
    if state.tasks[event.task].speaks:
        return _changed(state, event, doing="started"), ()
    return _changed(state, event, doing="running", ready=True), ()


def _phase(state: State, event: Event) -> Decision:
    return _changed(state, event, doing=str(event.data.get("phase"))), ()


def _ready(state: State, event: Event) -> Decision:
    return _changed(state, event, ready=True, doing="ready"), ()


def _progress(state: State, event: Event) -> Decision:
    assert event.task is not None
    if state.tasks[event.task].doing == "training":
        return state, ()
    return _changed(state, event, doing="training"), ()


def _done(state: State, event: Event) -> Decision:
    """A task's work is done. Only the chief ends by itself: its peers stay until it needs none of them any more."""
    assert event.task is not None
    state = _changed(state, event, done=True, doing="done")
    if state.phase is Phase.FINISHING:
        return state, (Stop((event.task,), grace_s=state.policy.failure_grace_s),)
    return state, ()


def _failure(state: State, event: Event) -> Decision:
    """A task says that it is failing. Its exit follows and decides; if it hangs instead, `_tick` does not wait."""
    assert event.task is not None
    if state.phase is Phase.STOPPING and not state.failures:
        return state, ()
    state = _changed(state, event, failure={**event.data, "time": event.time}, doing="failing")
    failure = failure_of(state, event, exit_code=None, signal_name=None)
    return _fail(state, silent_peer(state, failure) or failure)


def _task_exited(state: State, event: Event) -> Decision:
    assert event.task is not None
    before = state.tasks[event.task]
    state = _changed(state, event, exited=True, doing="ended")
    exit_code, signal_name = event.data.get("exit_code"), event.data.get("signal")
    if before.failure is not None:
        failures = tuple(
            replace(failure, exit_code=exit_code, signal=signal_name, log_tail=tail_of(event) or failure.log_tail)
            if failure.task == event.task
            else failure
            for failure in state.failures
        )
        return replace(state, failures=failures), ()
    if state.phase is Phase.STOPPING:
        return state, ()
    if state.phase is Phase.FINISHING and (exit_code == 0 or before.serves or before.done):
        return state, ()
    if exit_code == 0 and before.is_evaluator:
        return _changed(state, event, done=True), ()
    if exit_code == 0 and not before.speaks and not before.serves:
        state = _changed(state, event, done=True)
        done = all(task.done for task in state.tasks.values() if not task.serves)
        return _finish(state, event.time) if done else (state, ())
    if exit_code == 0 and before.done:
        return _finish(state, event.time) if event.task == state.chief else (state, ())
    return _fail(state, failure_of(state, event, exit_code=exit_code, signal_name=signal_name))


def _task_cleared(state: State, event: Event) -> Decision:
    return _changed(state, event, cleared=True), ()


# ---- ending


def _fail(state: State, failure: Failure) -> Decision:
    if state.phase is Phase.FINISHING and not failure.cause:
        # The chief has what was wanted and is gone: its peers may say so in this way while they end.
        return state, ()
    state = replace(state, failures=(*state.failures, failure))
    if state.phase is Phase.STOPPING:
        told = state.failure_told and state.stopped_by is None
        return state, (_consequence(failure),) if told else ()
    return state, ()


def _consequence(failure: Failure) -> Tell:
    return Tell("consequence", failure.task, failure.host, {"message": failure.message})


def _tell_failure(state: State, time: float) -> Decision:
    """Name the first failure once it is known well enough, and stop the peers."""
    first = state.first_failure
    if first is None or state.failure_told or state.stopped_by is not None:
        return state, ()
    opening = state.phase is Phase.OPENING
    settle_s = state.policy.hosts_settle_s if opening else state.policy.settle_s
    waited = time - min(failure.time for failure in state.failures) >= settle_s
    task = state.tasks.get(first.task or "")
    if opening:
        complete = first.kind != "host" or state.hosts_prepared | state.hosts_failed == state.hosts
    else:
        complete = first.cause and (task is None or task.exited)
    if not (waited or complete):
        return state, ()
    others = tuple(_consequence(failure) for failure in state.failures if failure is not first)
    grace_s = state.policy.failure_grace_s
    stopping = replace(state, failure_told=True, phase=Phase.STOPPING, deadline=time + grace_s)
    if opening:  # no task has started
        others = tuple(replace(other, kind="host_failed") for other in others)
        stopping = _on_host(stopping, None, exited=True, cleared=True)
    subject = first.task or first.host or "the start"
    return stopping, (
        Tell("task_failed", first.task, first.host, first.to_json()),
        *others,
        Tell("stopping", data={"reason": f"{subject} failed", "grace_s": grace_s}),
        Stop(grace_s=grace_s),
    )


def _finish(state: State, time: float) -> Decision:
    """The chief is done: stop those that serve or have nothing left to do, and wait for the others a while."""
    state = replace(state, phase=Phase.FINISHING, deadline=time + state.policy.finish_grace_s)
    idle = tuple(task.name for task in state.tasks.values() if (task.serves or task.done) and not task.exited)
    if not idle:
        return state, ()
    return state, (Stop(idle, grace_s=state.policy.failure_grace_s),)


def _signal(state: State, event: Event) -> Decision:
    """Ctrl-C or SIGTERM: once, with grace; again, at once."""
    number = int(event.data["number"])
    if state.stopped_by is None and not state.failure_told:
        grace_s = state.policy.stop_grace_s
        reason = f"stopped by {signal.Signals(number).name}"
        if number == signal.SIGINT:
            reason += "; press Ctrl-C again to stop at once"
    else:
        grace_s, reason = 0.0, "stopping at once"
        state = replace(state, at_once=True)
    stopped_by = state.stopped_by if state.stopped_by is not None or state.failure_told else number
    opening = state.phase is Phase.OPENING
    state = replace(state, phase=Phase.STOPPING, stopped_by=stopped_by, deadline=event.time + grace_s)
    if opening:
        state = _on_host(state, None, cleared=True)
    return state, (Tell("stopping", data={"reason": reason, "grace_s": grace_s}), Stop(grace_s=grace_s))


def _tick(state: State, event: Event) -> Decision:
    """Time passes: overdue tasks are named, deadlines end waits."""
    now = event.time
    if state.phase in (Phase.OPENING, Phase.RUNNING) and not all(task.ready for task in state.tasks.values()):
        return _overdue(state, now)
    if state.phase is Phase.FINISHING and state.deadline is not None and now >= state.deadline:
        late = [task.name for task in state.tasks.values() if not task.cleared]
        grace_s = state.policy.failure_grace_s
        reason = f"{', '.join(late)} did not end after the chief"
        state = replace(state, phase=Phase.STOPPING, deadline=now + grace_s)
        return state, (Tell("stopping", data={"reason": reason, "grace_s": grace_s}), Stop(grace_s=grace_s))
    if state.phase is Phase.STOPPING and state.deadline is not None and now >= state.deadline + 5.0:
        # The agents should have killed everything by now; a closed connection makes them, or their guards, do it.
        unheard = [task for task in state.tasks.values() if not task.cleared and not task.serves]
        state = replace(_on_host(state, None, exited=True, cleared=True), deadline=None)
        if unheard and state.stopped_by is None and not state.failures:
            first = unheard[0]
            message = f"nothing more was heard of what {first.name} leaves; it may be incomplete"
            state = _fail(state, Failure(now, first.name, first.host, state.attempt, "host", message))[0]
        return state, (Abandon(),)
    return state, ()


def _receiving(state: State, event: Event) -> Decision:
    """Files arrive that tasks have left: an end that moves on is not cut short, unless somebody insists."""
    if state.deadline is None or state.at_once:
        return state, ()
    return replace(state, deadline=max(state.deadline, event.time + state.policy.receiving_s)), ()


def _file_lost(state: State, event: Event) -> Decision:
    """A checkpoint is written again, and the run goes on without this one. What is left of anything else is a loss."""
    if str(event.data["path"]).startswith("checkpoints/"):
        return state, ()
    return _fail(state, Failure(event.time, None, event.host, state.attempt, "file", str(event.data["message"])))


def _overdue(state: State, now: float) -> Decision:
    """Name who is missing, and what is known of each."""
    missing = [task for task in state.tasks.values() if not task.ready]
    what = ", ".join(map(_missing, missing))
    if now - state.began >= state.policy.start_timeout_s:
        # Who waits for others is not what they all wait for.
        first = next((task for task in missing if task.doing != "connecting"), missing[0])
        message = f"not ready after {state.policy.start_timeout_s:g} s: waiting for {what}"
        if state.phase is Phase.OPENING:
            first = next((task for task in missing if task.host not in state.hosts_prepared), first)
            message = f"{first.host}: {message}; `distrain doctor --workers {first.host}` may tell why"
            return _fail(state, Failure(now, None, first.host, state.attempt, "host", message))
        if any(task.doing == first.doing for task in missing if task is not first):  # nobody stands out
            return _fail(state, Failure(now, None, None, state.attempt, "start_timeout", message))
        return _fail(state, Failure(now, first.name, first.host, state.attempt, "start_timeout", message))
    if now - state.overdue_told < state.policy.overdue_s:
        return state, ()
    message = f"waiting for {what} ({now - state.began:.0f} s after the start)"
    tell = Tell("note", data={"level": "info", "message": message})
    actions = (tell, TryTasks(tuple(task.name for task in missing))) if state.phase is Phase.RUNNING else (tell,)
    return replace(state, overdue_told=now), actions


def _missing(task: TaskState) -> str:
    reach = f", {task.reach}" if task.reach and task.doing == "connecting" else ""
    return f"{task.name} on {task.host}: {task.doing}{reach}"


def _tried(state: State, event: Event) -> Decision:
    return _changed(state, event, reach=event.data["reach"]), ()


def _end_if_over(state: State) -> Decision:
    if state.phase is Phase.ENDED or not all(task.cleared for task in state.tasks.values()):
        return state, ()
    if state.failures and not state.failure_told and state.stopped_by is None:
        return state, ()
    return replace(state, phase=Phase.ENDED), (End(),)


_HANDLERS = {
    "host_opened": _host_opened,
    "host_prepared": _host_prepared,
    "hosts_connected": _hosts_connected,
    "host_lost": _host_lost,
    "host_ending": _host_ending,
    "host_unreachable": _host_ending,
    "task_started": _task_started,
    "phase": _phase,
    "ready": _ready,
    "progress": _progress,
    "done": _done,
    "failure": _failure,
    "task_exited": _task_exited,
    "task_cleared": _task_cleared,
    "tried": _tried,
    "receiving": _receiving,
    "file_lost": _file_lost,
    "signal": _signal,
    "tick": _tick,
}
