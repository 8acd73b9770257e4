"""How an attempt comes to its end: which failure is named, who is stopped and when, and what follows then.

Pure, as all that `supervise` decides with.
"""

from __future__ import annotations

import signal
from dataclasses import replace

from distrain.job.cluster import LOCAL
from distrain.launcher.events import Event
from distrain.launcher.supervise.actions import (
    Abandon,
    Action,
    AskForStacks,
    DropHosts,
    End,
    Stop,
    Tell,
)
from distrain.launcher.supervise.restarts import restart_after, why_not
from distrain.launcher.supervise.state import (
    Decision,
    Failure,
    Phase,
    State,
    Then,
)

_WITH_STACKS = frozenset(("hang", "unresponsive", "host"))
"""Failures after which it is worth some time to learn where the tasks are."""
_EXITING = frozenset(("exception", "job", "nan", "checkpoint"))
"""What a task says before it exits by itself, which it is given a moment for."""
_KILLED_S = 5.0
"""After this long the agents should have killed everything."""


def fail(state: State, failure: Failure) -> Decision:
    """One more failure: the cause of the others, or one of those."""
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


def name_failure(state: State, time: float) -> Decision:
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
        complete = first.cause and (first.kind not in _EXITING or task is None or task.exited)
    if not (waited or complete or state.phase is Phase.WAITING):
        return state, ()
    others = tuple(_consequence(failure) for failure in state.failures if failure is not first)
    if opening:
        others = tuple(replace(other, kind="host_failed") for other in others)
    told = (Tell("task_failed", first.task, first.host, first.to_json()), *others)
    refused = None if state.nothing_runs else why_not(state, first)
    if state.nothing_runs or refused is not None:
        state, actions = _stop_for_good(replace(state, failure_told=True), first, time, refused or "")
    else:
        state, actions = _stop_to_restart(replace(state, failure_told=True), first, time)
    return state, (*told, *actions)


def _stop_for_good(state: State, first: Failure, time: float, refused: str) -> Decision:
    grace_s = state.policy.failure_grace_s
    reason = f"{first.task or first.host or 'the start'} failed" + (f"; {refused}" if refused else "")
    tell = Tell("stopping", data={"reason": reason, "grace_s": grace_s})
    if state.nothing_runs:
        return end_waiting(state, time, grace_s, tell)
    return _stop(state, (tell,), first, time, grace_s, Then.END)


def _stop_to_restart(state: State, first: Failure, time: float) -> Decision:
    """Workers of ours lose nothing by a sudden end, but those that were asked to leave have a checkpoint to write."""
    state = replace(state, restart=restart_after(state, first))
    speaking = all(task.speaks for task in state.tasks.values())
    if first.kind == "preempted" and first.signal != "SIGTERM":
        return _let_leave(state, first, time, speaking=speaking)
    return _stop(state, (), first, time, 0.0 if speaking else state.policy.failure_grace_s, Then.RESTART)


def _stop(state: State, told: tuple[Action, ...], first: Failure, time: float, grace_s: float, then: Then) -> Decision:
    """Stop all tasks; after what nobody can explain, when they have told where they are."""
    state = replace(state, phase=Phase.STOPPING, then=then, deadline=time + grace_s, watch=state.watch.over())
    state = replace(state, attending_last=False)
    alive = tuple(task.name for task in state.tasks.values() if task.ready and not task.exited)
    if first.kind in _WITH_STACKS and alive and any(state.tasks[name].speaks for name in alive):
        stacks_by = time + state.policy.stacks_s
        state = replace(state, stacks_awaited=frozenset(alive), stacks_by=stacks_by, deadline=stacks_by + grace_s)
        return state, (*told, AskForStacks(alive))
    return state, (*told, Stop(grace_s=grace_s, again=keeps_files_back(state)))


def keeps_files_back(state: State) -> bool:
    """Whether the hosts are to keep files back when they stop tasks. Where they have begun to, they do so until nothing
    is left of the attempt: only then can nobody mistake a `task_cleared` without the files for the one after them.
    """
    return state.then is Then.RESTART or bool(state.owing)


def _let_leave(state: State, first: Failure, time: float, *, speaking: bool) -> Decision:
    """A task or a whole host was asked to leave. Our workers agree among themselves, write a checkpoint and end; those
    that cannot have heard of it are told.
    """
    grace_s = state.policy.leaving_s
    state = replace(
        state,
        phase=Phase.STOPPING,
        then=Then.RESTART,
        deadline=time + grace_s,
        leaving=True,
        attending_last=bool(state.attending),
        watch=state.watch.over(),
    )
    alive = [task for task in state.tasks.values() if not task.exited and task.name not in state.attending]
    if first.task is None:
        alive = [task for task in alive if task.host != first.host]  # its agent has told those
    elif speaking and first.task not in state.attending:
        alive = []  # they agreed on it, and to be told twice would end them at once
    state, actions = stop_attending(state)
    if alive:
        actions = (Stop(tuple(task.name for task in alive), grace_s=grace_s, again=True), *actions)
    return state, actions


def stop_attending(state: State) -> Decision:
    """When those have ended that were attended, those that did so are stopped."""
    if not state.attending_last or any(not task.exited for task in state.tasks.values() if not task.attends):
        return state, ()
    return replace(state, attending_last=False), (Stop(state.attending, grace_s=0.0, again=keeps_files_back(state)),)


def heard_stacks(state: State, event: Event) -> Decision:
    assert event.task is not None
    return replace(state, stacks_awaited=state.stacks_awaited - {event.task}), ()


def stop_after_stacks(state: State, time: float) -> Decision:
    """The tasks have told where they are, or had their time for it: now they are stopped."""
    by, deadline = state.stacks_by, state.deadline
    if by is None or (state.stacks_awaited and time < by):
        return state, ()
    state = replace(state, stacks_by=None, stacks_awaited=frozenset())
    if state.phase is Phase.STOPPING and deadline is not None:
        grace_s = max(0.0, deadline - by)
        return replace(state, deadline=time + grace_s), (Stop(grace_s=grace_s, again=keeps_files_back(state)),)
    hung = tuple(task.name for task in state.tasks.values() if task.respawn is not None and not task.exited)
    return state, (Stop(hung, grace_s=0.0, again=True),) if hung else ()


# ---- the chief is done


def finish(state: State, time: float) -> Decision:
    """The chief is done: stop those that serve or have nothing left to do, and wait for the others a while. Who
    evaluates takes as long as it takes, and may be fed until then.
    """
    deadline = time + state.policy.finish_grace_s
    state = replace(state, phase=Phase.FINISHING, finishing_since=time, deadline=deadline, watch=state.watch.over())
    state = replace(state, attending_last=bool(state.evaluating))
    return _stop_idle(state)


def _stop_idle(state: State) -> Decision:
    idle = tuple(
        task.name
        for task in state.tasks.values()
        if (task.done or (task.serves and not (state.attending_last and task.feeds))) and not task.exited
    )
    if not idle:
        return state, ()
    return state, (Stop(idle, grace_s=state.policy.failure_grace_s, again=keeps_files_back(state)),)


def finishing(state: State, now: float) -> Decision:
    """The phase is FINISHING: who takes too long is stopped, when nobody evaluates any more."""
    if state.evaluating:
        return replace(state, deadline=now + state.policy.finish_grace_s), ()
    if state.attending_last:
        return _stop_idle(replace(state, attending_last=False))
    if state.deadline is None or now < state.deadline:
        return state, ()
    late = [task.name for task in state.tasks.values() if not task.cleared]
    grace_s = state.policy.failure_grace_s
    reason = f"{', '.join(late)} did not end after the chief"
    state = replace(state, phase=Phase.STOPPING, then=Then.END, deadline=now + grace_s)
    tell = Tell("stopping", data={"reason": reason, "grace_s": grace_s})
    return state, (tell, Stop(grace_s=grace_s, again=keeps_files_back(state)))


# ---- a signal


def stop_by_signal(state: State, event: Event) -> Decision:
    """Ctrl-C or SIGTERM: once, with grace, in which a checkpoint is written; again, at once."""
    number = int(event.data["number"])
    ending = state.phase is Phase.STOPPING and state.then is Then.END and state.failure_told
    first = state.stopped_by is None and not ending
    if first:
        grace_s = state.policy.stop_grace_s
        reason = f"stopped by {signal.Signals(number).name}"
        if number == signal.SIGINT:
            reason += "; press Ctrl-C again to stop at once"
        state = replace(state, stopped_by=number)
    else:
        grace_s, reason = 0.0, "stopping at once"
        state = replace(state, at_once=True, owing=frozenset(), owed=frozenset())
    tell = Tell("stopping", data={"reason": reason, "grace_s": grace_s})
    if state.nothing_runs:
        return end_waiting(state, event.time, grace_s, tell)
    workers: tuple[str, ...] = ()
    if first and state.attending and state.phase is not Phase.FINISHING:
        workers = tuple(task.name for task in state.tasks.values() if not task.attends)
    leaving = state.leaving
    state = replace(
        state,
        phase=Phase.STOPPING,
        then=Then.END,
        deadline=event.time + grace_s,
        attending_last=bool(workers),
        leaving=False,
        stacks_awaited=frozenset(),
        stacks_by=None,
        watch=state.watch.over(),
    )
    if first and leaving:  # they have been told; a second time would end them at once
        return replace(state, leaving=True), (tell,)
    return state, (tell, Stop(workers, grace_s=grace_s, again=keeps_files_back(state)))


def end_waiting(state: State, time: float, grace_s: float, tell: Tell) -> Decision:
    """No task runs. What hosts have kept back for an attempt that will not be is sent before the end."""
    state = replace(state, phase=Phase.STOPPING, then=Then.END, restart=None)
    state, actions = _fetch(state.with_host(None, exited=True, cleared=True), time, grace_s)
    return state, (tell, *actions)


def _fetch(state: State, time: float, grace_s: float) -> Decision:
    """Nothing is left of the tasks: have the hosts send what they have kept back."""
    owed = state.owing & state.hosts_prepared
    state = replace(state, owing=frozenset(), owed=owed, deadline=time + grace_s, leaving=False, attending_last=False)
    return state, (Stop(grace_s=grace_s),) if owed else ()


# ---- time, and the end


def task_cleared(state: State, event: Event) -> Decision:
    assert event.task is not None
    state = state.with_task(event.task, cleared=True)
    return replace(state, owed=state.owed - {event.host or ""}), ()


def told_to_keep(state: State, actions: tuple[Action, ...]) -> State:
    """The far hosts keep back what has not been announced, where these actions tell them of tasks to come."""
    if not any(isinstance(action, Stop) and action.again for action in actions):
        return state
    return replace(state, owing=state.hosts_prepared - {LOCAL.name})


def tick(state: State, now: float) -> Decision:
    """The phase is STOPPING: deadlines end waits."""
    deadline = state.deadline
    if deadline is None:
        return state, ()
    if state.leaving and now >= deadline:
        state = replace(state, leaving=False, attending_last=False)
        return state, (Stop(grace_s=0.0, again=keeps_files_back(state)),)
    if state.attending_last and now >= deadline:
        stop = Stop(state.attending, grace_s=0.0, again=keeps_files_back(state))
        return replace(state, attending_last=False), (stop,)
    if now < deadline + _KILLED_S:
        return state, ()
    # A closed connection makes the agents, or their guards, end what is left.
    if state.then is Then.RESTART:
        hosts = tuple(sorted({task.host for task in state.tasks.values() if not task.cleared}))
        for host in hosts:
            state = state.with_host(host, exited=True, cleared=True)
        return replace(state, hosts_prepared=state.hosts_prepared - set(hosts), deadline=None), (DropHosts(hosts),)
    unheard = [task for task in state.tasks.values() if not task.cleared and not task.attends]
    nobody: frozenset[str] = frozenset()
    state = replace(state.with_host(None, exited=True, cleared=True), deadline=None, owing=nobody, owed=nobody)
    if unheard and state.stopped_by is None and not state.failures:
        first = unheard[0]
        message = f"nothing more was heard of what {first.name} leaves; it may be incomplete"
        state = fail(state, Failure(now, first.name, first.host, state.attempt, "host", message))[0]
    return state, (Abandon(),)


def is_over(state: State) -> bool:
    """Nothing is left of the attempt."""
    if state.nothing_runs or state.owed or not all(task.cleared for task in state.tasks.values()):
        return False
    if state.phase is Phase.FINISHING and state.evaluating:
        return False
    return not state.failures or state.failure_told or state.stopped_by is not None


def end(state: State, time: float) -> Decision:
    """Nothing is left of an attempt that no other one follows, but perhaps files that hosts have kept back."""
    state, actions = _fetch(state, time, state.policy.stop_grace_s)
    if actions:
        return replace(state, phase=Phase.STOPPING), actions
    return replace(state, phase=Phase.ENDED), (End(),)
