"""What the end of a task means: why it ended, in words, and whether it looks like what a peer's failure does to others.

Pure. What follows from a failure is `supervise`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distrain.launcher.events import Event
from distrain.launcher.supervise.state import Failure, State
from distrain.wire import PREEMPTED_EXIT, PRELOAD_GONE

CONSEQUENCES = (
    "UnavailableError",
    "AbortedError",
    "CancelledError",
    "DeadlineExceededError",
    "CoordinationService",
    "Connection reset by peer",
    "Connection closed by peer",
    "Collective ops is aborted",
    "PeerGone",
)
"""What TensorFlow, PyTorch and our own exchange say in a task whose peer is gone."""
QUIET_S = 4.0
"""A host tells of each of its tasks every second. One that has said nothing for so long cannot, or nobody hears it."""
_SILENT = re.compile(
    r"PeerGone: (?P<role>\w+):(?P<index>\d+) does not answer"
    r"|reported from /job:(?P<job>\w+)/(?:replica:\d+/)?task:(?P<number>\d+): .*stopped sending heartbeats"
)
"""What a task says of a peer that is there and does nothing."""


def tail_of(event: Event) -> tuple[str, ...]:
    return tuple(event.data.get("log_tail", ()))


def failure_of(state: State, event: Event, *, exit_code: int | None, signal_name: str | None) -> Failure:
    assert event.task is not None
    task = state.tasks[event.task]
    said = task.failure
    if said is not None:
        kind, message = _said(said), str(said.get("message"))
    elif event.data.get("message"):
        message = str(event.data["message"])
        kind = "unforked" if message.startswith(PRELOAD_GONE) else "start"
    elif signal_name == "SIGTERM" or exit_code == PREEMPTED_EXIT:
        how = f"exit code {exit_code}" if signal_name is None else signal_name
        kind, message = "preempted", f"was asked to leave ({how})"
    elif signal_name is not None:
        why = event.data.get("why")
        kind, message = "signal", f"killed by {signal_name}" + (f": {why}" if why else "")
    elif exit_code == 0:
        kind, message = "early_exit", "ended with exit code 0 before its work was done"
    else:
        kind, message = "exit", f"exited with code {exit_code}"
    tail = tail_of(event)
    # A task whose peer is gone may also abort inside TensorFlow: SIGABRT, or exit code 1, with that as its last words.
    hints = message if said is not None else "\n".join(tail)
    aborted = said is not None or signal_name == "SIGABRT" or exit_code == 1
    return Failure(
        time=event.time,
        task=event.task,
        host=task.host,
        attempt=state.attempt,
        kind=kind,
        message=message,
        exit_code=exit_code,
        signal=signal_name,
        log_tail=tail,
        where=said.get("where") if said is not None else None,
        cause=not (aborted and any(word in hints for word in CONSEQUENCES)) and (said or {}).get("asked") is not False,
        step=_step(said or {}, task.step),
        age_s=float(event.data.get("age_s", 0.0)),
    )


_WHY = frozenset(("nan", "checkpoint", "preempted", "file"))
"""What a task may say of why it fails, beside that it raised an exception: the failure's kind then."""


def _said(said: Mapping[str, Any]) -> str:
    if said.get("job_error"):
        return "job"
    return str(said["why"]) if said.get("why") in _WHY else "exception"


def _step(said: Mapping[str, Any], known: int | None) -> int | None:
    told = said.get("step")
    return told if isinstance(told, int) else known


def silent_peer(state: State, failure: Failure) -> Failure | None:
    """The failure of another task that this one tells of: it is there, and does nothing; or of its host, if nothing is
    heard of that either. None: it tells of none.
    """
    silent = _SILENT.search(failure.message)
    other = silent and state.tasks.get(f"{silent['role'] or silent['job']}:{silent['index'] or silent['number']}")
    if not other:
        return None
    quiet_s = failure.time - state.heard_at.get(other.host, failure.time)
    if quiet_s >= QUIET_S:
        message = (
            f"{other.host}: nothing has been heard from it for {quiet_s:.0f} s, and {failure.task} hears nothing of "
        )
        return replace(failure, task=None, host=other.host, kind="host", message=f"{message}{other.name}", cause=True)
    message = f"stopped answering, says {failure.task}"
    return replace(
        Failure(failure.time, other.name, other.host, state.attempt, "unresponsive", message),
        step=failure.step,
        age_s=failure.age_s,
    )
