"""The only place that decides: `decide(state, event) -> (state, actions)`, pure, on frozen values.

Owns what the events of running tasks mean, and puts together what the others decide: `waiting` until tasks start,
`stopping` from a failure to the end of an attempt, `restarts` whether there is another. Does nothing itself: the loop
carries the actions out and feeds back what happens. Time is read from the events alone, so that a scripted history
replays exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from distrain.launcher.events import Event
from distrain.launcher.supervise import hangs, presence, respawns, stopping, waiting
from distrain.launcher.supervise.actions import Action, Stop, Tell
from distrain.launcher.supervise.failures import failure_of, silent_peer, tail_of
from distrain.launcher.supervise.restarts import after_step
from distrain.launcher.supervise.state import (
    Decision,
    Failure,
    Phase,
    Policy,
    Restart,
    State,
    TaskState,
    Then,
)
from distrain.launcher.supervise.stopping import fail
from distrain.launcher.supervise.watchdog import EVALUATION


def begin(
    tasks: Iterable[TaskState],
    chief: str,
    *,
    time: float,
    policy: Policy | None = None,
    attempt: int = 1,
    resume: bool = False,
) -> State:
    """The state of a run whose hosts are being opened. `resume`: it goes on from its newest checkpoint."""
    by_name = {task.name: task for task in tasks}
    return State(
        policy=policy or Policy(),
        chief=chief,
        tasks=by_name,
        hosts=frozenset(task.host for task in by_name.values()),
        attempt=attempt,
        began=time,
        overdue_told=time,
        restart=Restart(time) if resume else None,
    )


def decide(state: State, event: Event) -> Decision:
    """What `event` changes and what is to be done about it."""
    if state.phase is Phase.ENDED:
        return state, ()
    if event.task is not None and event.host is not None:
        state = replace(state, heard_at={**state.heard_at, event.host: event.time})
    handle = _HANDLERS.get(event.kind)
    state, actions = handle(state, event) if handle else (state, ())
    state, told = stopping.name_failure(state, event.time)
    state, stopped = stopping.stop_after_stacks(state, event.time)
    state = stopping.told_to_keep(state, (*actions, *told, *stopped))
    over: tuple[Action, ...] = ()
    if stopping.is_over(state):
        state, over = (waiting.wait if state.then is Then.RESTART else stopping.end)(state, event.time)
    state, further = waiting.advance(state, event.time)
    return state, (*actions, *told, *stopped, *over, *further)


# ---- tasks


def _changed(state: State, event: Event, **changes: object) -> State:
    assert event.task is not None
    return state.with_task(event.task, **changes)


def _task(state: State, event: Event) -> TaskState:
    assert event.task is not None
    return state.tasks[event.task]


def _task_started(state: State, event: Event) -> Decision:
    if _task(state, event).speaks:
        return _changed(state, event, doing="started"), ()
    return _changed(state, event, doing="running", ready=True), ()


def _phase(state: State, event: Event) -> Decision:
    task = _task(state, event)
    if task.trains and task.ready and not task.exited:
        state = replace(state, watch=state.watch.left(event.time, task.doing))
    return _changed(state, event, doing=str(event.data.get("phase")), told_at=event.time), ()


def _metrics(state: State, event: Event) -> Decision:
    """Nobody waits for what a task aside finds, but it shall find something."""
    task = _task(state, event)
    if not task.aside:
        return state, ()
    if task.doing == EVALUATION and task.told_at is not None:
        state = replace(state, watch=state.watch.evaluated(event.time - task.told_at))
    return _changed(state, event, told_at=event.time), ()


def _ready(state: State, event: Event) -> Decision:
    # From here on it gives pulses: one that stands still before the first is missed, too.
    state = _changed(state, event, ready=True, doing="ready", pulse_at=event.time, told_at=event.time)
    if state.phase is Phase.RUNNING and state.watch.moved_at is None and _all_ready(state):
        state = replace(state, watch=state.watch.begun(event.time))
    return state, ()


def _all_ready(state: State) -> bool:
    return all(task.ready for task in state.tasks.values())


def _started(state: State, event: Event) -> Decision:
    if event.task != state.chief:
        return state, ()
    first = event.data["first_step"]
    step = max(first, state.step)
    return replace(state, first_step=first, step=step, steps_per_epoch=event.data["steps_per_epoch"]), ()


def _progress(state: State, event: Event) -> Decision:
    state = _stepped(state, event, event.data["step"])
    if _task(state, event).doing != "training":
        state = _changed(state, event, doing="training")
    pace = state.pace.after(event)
    known = {(entry["task"], entry["attempt"]) for entry in state.stragglers}
    told: list[Tell] = []
    entries = list(state.stragglers)
    for name in pace.stragglers(event.time):
        task = state.tasks.get(name)
        if task is None or task.exited or (name, state.attempt) in known:
            continue
        ratio = round(pace.ratios[name], 2)
        entries.append({"task": name, "host": task.host, "attempt": state.attempt, "ratio": ratio})
        told.append(Tell("straggler", name, task.host, {"ratio": ratio}))
    return replace(state, pace=pace, stragglers=tuple(entries)), tuple(told)


def _pulse(state: State, event: Event) -> Decision:
    state = _changed(state, event, pulse_at=event.time, busy=event.data["doing"])
    return _stepped(state, event, event.data["step"]), ()


def _stepped(state: State, event: Event, step: int) -> State:
    task = _task(state, event)
    if step == task.step or task.aside:  # whose steps are those of what it looks at
        return state
    state = _changed(state, event, step=step)
    if step <= state.step:
        return state
    state = replace(after_step(state, step), step=step)
    if state.phase is not Phase.RUNNING:
        return state
    return replace(state, watch=state.watch.made_step(event.time, task.doing))


def _checkpoint(state: State, event: Event) -> Decision:
    """What there was to go back behind is behind us."""
    if state.before is None or event.data["step"] < max(state.before, state.skip_to or 0):
        return state, ()
    return replace(state, before=None, skip_to=None), ()


def _usage(state: State, event: Event) -> Decision:
    stopped = bool(event.data.get("stopped"))
    return (_changed(state, event, stopped=stopped) if stopped is not _task(state, event).stopped else state), ()


def _done(state: State, event: Event) -> Decision:
    """A task's work is done. Only the chief ends by itself: its peers stay until it needs none of them any more."""
    assert event.task is not None
    state = _changed(state, event, done=True, doing="done")
    if state.phase is Phase.FINISHING:
        again = stopping.keeps_files_back(state)
        return state, (Stop((event.task,), grace_s=state.policy.failure_grace_s, again=again),)
    return state, ()


def _failure(state: State, event: Event) -> Decision:
    """A task says that it is failing. Its exit follows and decides; if it hangs instead, `_tick` does not wait."""
    if state.phase is Phase.STOPPING and not state.failures:
        return state, ()
    data = {key: value for key, value in event.data.items() if key not in ("log_tail", "age_s")}
    state = _changed(state, event, failure=data, doing="failing")
    if respawns.concerns(state, event.task):
        return state, ()
    failure = failure_of(state, event, exit_code=None, signal_name=None)
    return fail(state, silent_peer(state, failure) or failure)


def _preempted(state: State, event: Event) -> Decision:
    """A task was asked to leave. The others agreed to, so none of their ends is a failure."""
    if state.phase is Phase.STOPPING:
        return _changed(state, event, doing="leaving"), ()
    said = {"why": "preempted", "message": "was asked to leave", "step": event.data["step"]}
    return _failure(state, replace(event, data={**event.data, **said}))


def _task_exited(state: State, event: Event) -> Decision:
    state, actions = _exited(state, event)
    if state.phase is not Phase.STOPPING:
        return state, actions
    state, further = stopping.stop_attending(state)
    return state, (*actions, *further)


def _exited(state: State, event: Event) -> Decision:
    before = _task(state, event)
    state = _changed(state, event, exited=True, doing="ended")
    state = replace(state, stacks_awaited=state.stacks_awaited - {before.name})
    exit_code, signal_name = event.data.get("exit_code"), event.data.get("signal")
    if before.respawn is not None:
        return state, ()  # it was ended for that
    if before.failure is not None and not respawns.concerns(state, before.name):
        failures = tuple(
            replace(failure, exit_code=exit_code, signal=signal_name, log_tail=tail_of(event) or failure.log_tail)
            if failure.task == event.task
            else failure
            for failure in state.failures
        )
        return replace(state, failures=failures), ()
    if state.phase is Phase.STOPPING:
        return state, ()
    if state.phase is Phase.FINISHING and (exit_code == 0 or before.done):
        return state, ()
    if state.phase is Phase.FINISHING and before.serves:
        failure = failure_of(state, event, exit_code=exit_code, signal_name=signal_name)
        return respawns.after(state, failure) or (state, ())  # who evaluates may still need it
    if before.given_up:
        return state, ()
    if exit_code == 0 and before.may_end:
        return _changed(state, event, done=True), ()
    if exit_code == 0 and not before.speaks and not before.serves:
        state = _changed(state, event, done=True)
        done = all(task.done for task in state.tasks.values() if not task.serves)
        return stopping.finish(state, event.time) if done else (state, ())
    if exit_code == 0 and before.done:
        return stopping.finish(state, event.time) if event.task == state.chief else (state, ())
    failure = failure_of(state, event, exit_code=exit_code, signal_name=signal_name)
    return respawns.after(state, failure) or fail(state, failure)


# ---- what arrives


def _receiving(state: State, event: Event) -> Decision:
    """Files arrive that tasks have left: an end that moves on is not cut short, unless somebody insists."""
    if state.deadline is None or state.at_once or state.leaving or state.stacks_by is not None:
        return state, ()
    return replace(state, deadline=max(state.deadline, event.time + state.policy.receiving_s)), ()


def _file_lost(state: State, event: Event) -> Decision:
    """A checkpoint is written again, and the run goes on without this one. What is left of anything else is a loss."""
    if str(event.data["path"]).startswith("checkpoints/"):
        return state, ()
    return fail(state, Failure(event.time, None, event.host, state.attempt, "file", str(event.data["message"])))


def _tried(state: State, event: Event) -> Decision:
    return _changed(state, event, reach=event.data["reach"]), ()


# ---- time


def _tick(state: State, event: Event) -> Decision:
    """Time passes: overdue tasks are named, hangs are noticed, deadlines end waits."""
    now = event.time
    state = hangs.at_tick(state, now)
    match state.phase:
        case Phase.OPENING:
            return waiting.overdue(state, now)
        case Phase.RUNNING:
            state, started = _alone(state, now)
            if not _all_ready(state):
                state, late = waiting.overdue(state, now)
                started = (*started, *late)
            state, hung = hangs.look(state, now)
            return state, (*started, *hung)
        case Phase.FINISHING:
            state, alone = _alone(state, now)
            state, late = stopping.finishing(state, now)
            return state, (*alone, *late)
        case Phase.STOPPING:
            return stopping.tick(state, now)
        case Phase.WAITING:
            state, opened = presence.tick(state, now)
            state, late = waiting.late(state, now)
            return state, (*opened, *late)
    return state, ()


def _alone(state: State, now: float) -> Decision:
    """Tasks that are started again alone, and those aside."""
    state, started = waiting.task_may_start(state, now)
    state, missed = hangs.look_aside(state, now)
    return state, (*started, *missed)


_HANDLERS: dict[str, Callable[[State, Event], Decision]] = {
    "host_opened": presence.host_opened,
    "host_prepared": presence.host_prepared,
    "hosts_connected": presence.hosts_connected,
    "host_lost": presence.host_lost,
    "host_ending": presence.host_ending,
    "host_unreachable": presence.host_unreachable,
    "checkpoint_chosen": waiting.checkpoint_chosen,
    "checkpoint_sending": waiting.checkpoint_sending,
    "checkpoint_sent": waiting.checkpoint_sent,
    "cluster_changed": presence.cluster_changed,
    "task_started": _task_started,
    "phase": _phase,
    "ready": _ready,
    "started": _started,
    "progress": _progress,
    "metrics": _metrics,
    "pulse": _pulse,
    "checkpoint": _checkpoint,
    "usage": _usage,
    "done": _done,
    "failure": _failure,
    "preempted": _preempted,
    "task_exited": _task_exited,
    "task_cleared": stopping.task_cleared,
    "stacks": stopping.heard_stacks,
    "tried": _tried,
    "receiving": _receiving,
    "file_lost": _file_lost,
    "signal": stopping.stop_by_signal,
    "tick": _tick,
}
