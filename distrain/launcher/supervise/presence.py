"""Which hosts are there: opened, lost, opened again, given up when they stay away, and taken back.

Pure, as all that `supervise` decides with.
"""

from __future__ import annotations

from dataclasses import replace

from distrain.job.cluster import LOCAL
from distrain.launcher.events import Event
from distrain.launcher.supervise import respawns
from distrain.launcher.supervise.actions import (
    DropHosts,
    OpenHosts,
    Reshape,
    Tell,
)
from distrain.launcher.supervise.state import (
    Decision,
    Failure,
    Phase,
    Retry,
    State,
    TaskState,
)
from distrain.launcher.supervise.stopping import fail

LONGEST_RETRY_S = 30.0


def host_opened(state: State, event: Event) -> Decision:
    state = state.with_host(event.host, doing="waiting for its host to be prepared")
    if event.host in state.returning:  # it is there: what it still takes is waited for
        state = replace(state, return_by=event.time + state.policy.contact_timeout_s)
    return state, ()


def host_prepared(state: State, event: Event) -> Decision:
    assert event.host is not None
    state = replace(state, hosts_prepared=state.hosts_prepared | {event.host})
    retry = state.retries.get(event.host)
    if retry is not None and retry.back_at is None:
        state = replace(state, retries={**state.retries, event.host: replace(retry, back_at=event.time)})
    return state.with_host(event.host, doing="waiting for the other hosts") if state.nothing_runs else state, ()


def hosts_connected(state: State, event: Event) -> Decision:
    return replace(state, connected=state.connecting, connecting=False), ()


def host_lost(state: State, event: Event) -> Decision:
    """The connection to a host is gone; its agent ends what it had. Nothing more will be heard of its tasks."""
    assert event.host is not None
    if event.host not in state.hosts:
        return replace(state, returning=state.returning - {event.host}), ()
    here = [task for task in state.tasks.values() if task.host == event.host]
    done = bool(here) and all(task.cleared for task in here) and not state.failures and not state.nothing_runs
    respawn = next((task.respawn for task in here if task.respawn is not None), None)
    state = replace(
        state,
        hosts_prepared=state.hosts_prepared - {event.host},
        connected=False,
        connecting=False,
        owing=state.owing - {event.host},
        owed=state.owed - {event.host},
    )
    if state.restart is not None:
        state = replace(state, restart=replace(state.restart, sending=False, sent=False))
    if state.phase is Phase.WAITING:
        return _try_again(state, event)
    if done and respawn is None:
        return state, ()  # all that it had to do is done
    if done and respawn is not None and state.phase is Phase.FINISHING:
        return respawns.give_up(state, respawn, "its host is gone")
    awaited = state.stacks_awaited - {task.name for task in here}
    state = replace(state.with_host(event.host, exited=True, cleared=True), stacks_awaited=awaited)
    return host_ending(state, event)


def host_ending(state: State, event: Event) -> Decision:
    """An agent ends though nobody asked for it. Its tasks' ends, which may still be heard of, follow from that."""
    assert event.host is not None
    if event.host not in state.hosts:
        return state, ()
    state = replace(state, hosts_prepared=state.hosts_prepared - {event.host}, connected=False, connecting=False)
    if state.phase in (Phase.STOPPING, Phase.WAITING):
        return state, ()
    kind = "preempted" if event.data.get("preempted") else "host"
    age_s = float(event.data.get("age_s", 0.0))
    failure = Failure(
        event.time, None, event.host, state.attempt, kind, str(event.data["message"]), step=state.step, age_s=age_s
    )
    return fail(replace(state, hosts_failed=state.hosts_failed | {event.host}), failure)


def host_unreachable(state: State, event: Event) -> Decision:
    """The hosts do not reach each other."""
    if state.phase is not Phase.WAITING:
        return host_ending(state, event)
    # What has come back may need a moment more. Its connection is there, so it must be closed to be opened again.
    assert event.host is not None
    state = replace(state, hosts_prepared=state.hosts_prepared - {event.host}, connected=False, connecting=False)
    state, told = _try_again(state, event)
    return state, (DropHosts((event.host,)), *told)


def _try_again(state: State, event: Event) -> Decision:
    """A host that cannot be opened now is opened again after a pause, which grows. The time that it was back is left
    out of how long it has been away.
    """
    assert event.host is not None
    last = state.retries.get(event.host) or Retry(event.time, event.time)
    lost_at = last.lost_at + (event.time - last.back_at if last.back_at is not None else 0.0)
    pause_s = min(2 * last.pause_s, LONGEST_RETRY_S)
    retry = Retry(event.time + last.pause_s, lost_at, pause_s=pause_s, message=str(event.data["message"]))
    message = f"{retry.message}; it is tried again in {last.pause_s:g} s"
    tell = Tell("note", data={"level": "warning", "message": message})
    return replace(state, retries={**state.retries, event.host: retry}), (tell,)


# ---- between two attempts


def cluster_changed(state: State, event: Event) -> Decision:
    """The tasks are laid out anew on fewer hosts, or on more; `tasks` None: that is not possible."""
    if state.phase is not Phase.WAITING:
        return state, ()
    tasks: tuple[TaskState, ...] | None = event.data["tasks"]
    state = replace(state, reshaping=False)
    if tasks is None:
        return replace(state, too_few=True), ()
    gone = frozenset(event.data["gone"])
    names = {task.name: replace(task, exited=True, cleared=True) for task in tasks}
    hosts = frozenset(task.host for task in tasks)
    restart = state.restart and replace(state.restart, sending=False, sent=state.restart.resume is None)
    dropped = tuple(sorted(host for host in state.retries if host not in hosts))
    told = Tell("cluster_changed", data={"tasks": [[task.name, task.host] for task in tasks], "gone": sorted(gone)})
    state = replace(
        state,
        tasks=names,
        chief=event.data["chief"],
        hosts=hosts,
        gone=gone,
        hosts_prepared=(state.hosts_prepared & hosts) - frozenset(event.data["preparing"]),
        retries={host: retry for host, retry in state.retries.items() if host in hosts},
        returning=frozenset(),
        connected=state.connected and hosts <= state.hosts,
        restart=restart,
    )
    return state, (told, DropHosts(dropped)) if dropped else (told,)


def tick(state: State, now: float) -> Decision:
    """The phase is WAITING: hosts that are lost are opened again, and given up in the end."""
    due = []
    for host, retry in state.retries.items():
        if host in state.hosts_prepared:
            continue
        lost_s = now - retry.lost_at
        if lost_s >= state.policy.start_timeout_s:
            message = retry.message or f"{host}: it does not come back"
            failure = Failure(now, None, host, state.attempt, "host", f"{message} (for {lost_s:.0f} s now)")
            return fail(state, failure)
        may_shrink = state.policy.elastic and not (state.too_few or state.reshaping)
        if may_shrink and lost_s >= state.policy.contact_timeout_s and host != LOCAL.name:
            gone = state.gone | {host for host in state.retries if host not in state.hosts_prepared}
            return replace(state, reshaping=True), (Reshape(gone),)
        if now >= retry.at:
            due.append(host)
    if not due:
        return state, ()
    retries = {host: replace(retry, at=float("inf")) if host in due else retry for host, retry in state.retries.items()}
    return replace(state, retries=retries), (OpenHosts(tuple(due)),)
