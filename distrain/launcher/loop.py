"""The launcher's loop: feeds every message to `decide` and the sinks, and carries out what is decided.

What events mean is `supervise`'s, the hosts and their connections are `hosts`'s, what is recorded and shown is the
sinks'.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from distrain import wire
from distrain.errors import DistrainError
from distrain.job.masking import masked_arguments
from distrain.launcher.attempts import Attempts
from distrain.launcher.chaos import Chaos
from distrain.launcher.events import Event, Sink, flaw, now
from distrain.launcher.hosts.ages import Ages
from distrain.launcher.outset import Outset
from distrain.launcher.summary import Tally
from distrain.launcher.supervise.actions import (
    Abandon,
    Action,
    AskForStacks,
    ChooseCheckpoint,
    ConnectHosts,
    DropHosts,
    End,
    OpenHosts,
    Reshape,
    SendCheckpoint,
    StartTasks,
    Stop,
    Tell,
    TryTasks,
)
from distrain.launcher.supervise.decide import begin, decide
from distrain.launcher.supervise.state import Policy

TICK_S = 0.1
TAIL_BYTES = 16 * 1024
TAIL_LINES = 20
_UNTOLD = frozenset({"receiving", "tried", "checkpoint_sending", "checkpoint_sent"})
"""Kinds that matter to what is decided, and to nobody else."""


class Loop:
    """One run. `state` is what has been decided so far. `chaos` injures it, and follows what comes of that."""

    def __init__(
        self,
        outset: Outset,
        sinks: tuple[Sink, ...],
        signals: socket.socket | None,
        *,
        began: float,
        chaos: Chaos | None = None,
    ) -> None:
        job = outset.job
        self._outset = outset
        self._job = job
        self._rundir = outset.rundir
        self._sinks = [*sinks, *([chaos] if chaos is not None else [])]
        self._chaos = chaos
        self._attempts = Attempts(outset)
        self._hosts = self._attempts.hosts
        self.state = begin(
            self._attempts.tasks(),
            self._attempts.chief,
            time=began,
            policy=Policy.of(job),
            attempt=outset.first_attempt,
            resume=outset.resumed_from is not None and job.program is None,
        )
        self._tally = Tally(began)
        self._tails: dict[str, bytes] = {}
        self._ages = Ages()
        self._over = False
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        if signals is not None:
            self._selector.register(signals, selectors.EVENT_READ)

    # ---- the loop

    def run(self) -> dict[str, Any]:
        """Until nothing of the run is left. Returns the summary, which is then also written."""
        program = self._job.program
        self._tell(
            "run_started",
            data={
                "run": self._rundir.name,
                "run_dir": str(self._rundir.path),
                "name": self._job.name,
                "strategy": program.argv[0] if program else self._job.strategy.name,
                "tasks": [[task.name, task.host] for task in self.state.tasks.values()],
                "epochs": 0 if program else self._job.training.epochs,
                "argv": masked_arguments(sys.argv),
                "cwd": self._outset.place.cwd,
                "job_file": self._outset.job_file,
                "resumed_from": self._outset.resumed_from,
            },
        )
        for level, sentence in self._outset.notes:
            self._tell("note", data={"level": level, "message": sentence})
        next_tick = 0.0
        while not self._over:
            self._wait(TICK_S)
            if not self._over and time.monotonic() >= next_tick:
                self._tick(now())
                next_tick = time.monotonic() + TICK_S
        self.close()
        summary = self._tally.summary(self.state, run=self._rundir.name, name=self._job.name, ended=now())
        try:
            self._rundir.write_summary(summary)
        except DistrainError as error:  # the end is told all the same
            self._tell("note", data={"level": "error", "message": str(error)})
        self._tell("run_ended", data=summary)
        return summary

    def _tick(self, at: float) -> None:
        for heard in self._hosts.tick():
            self._heard(heard)
        if (chosen := self._attempts.chosen()) is not None:
            self._decide(chosen)
        self._decide(Event(at, "tick", self.state.attempt))
        self._each_sink(lambda sink: sink.tick(at))
        for injury in self._chaos.due(at) if self._chaos is not None else ():
            done = {"injury": injury.kind.value, "targets": list(injury.targets), "seconds": injury.seconds}
            self._tell("harm", host=injury.host, data=done)
            self._hosts.harm(injury)

    def _wait(self, timeout_s: float) -> None:
        wanted = self._hosts.interest()
        watched = self._selector.get_map().values()
        registered = {key.fd: key for key in watched if key.fileobj is not self._signals}
        for fd in registered.keys() - wanted.keys():
            self._selector.unregister(fd)
        for fd, (mask, connection) in wanted.items():
            if fd in registered and registered[fd].data != connection:  # another one, whose descriptor has that number
                self._selector.unregister(fd)
                del registered[fd]
            if fd not in registered:
                self._selector.register(fd, mask, connection)
            elif registered[fd].events != mask:
                self._selector.modify(fd, mask, connection)
        ready = self._selector.select(timeout_s)
        for host in dict.fromkeys(key.data[0] for key, _ in ready if key.fileobj is not self._signals):
            for heard in self._hosts.hear(host):
                self._heard(heard)
        if any(key.fileobj is self._signals for key, _ in ready):
            assert self._signals is not None
            for number in self._signals.recv(64):
                if number not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    continue
                self._decide(Event(now(), "signal", self.state.attempt, data={"number": number}))

    # ---- what is heard

    def _heard(self, heard: Event | wire.TaskMessage) -> None:
        if not isinstance(heard, Event):
            self._take(heard)
        elif heard.kind in _UNTOLD:
            self._decide(replace(heard, attempt=self.state.attempt))
        else:
            self._happened(replace(heard, attempt=self.state.attempt))

    def _take(self, message: wire.TaskMessage) -> None:
        """What a message about a task means."""
        at, attempt, host = now(), message.attempt, self._attempts.host_of[message.task]
        late = attempt != self.state.attempt
        match message:
            case wire.TaskOutput(task, _, data):
                self._tails[task] = (self._tails.get(task, b"") + data)[-TAIL_BYTES:]
                self._each_sink(lambda sink: sink.output(at, task, data))
            case wire.TaskEvent(task, _, _, kind, details) if said := flaw(kind, details):
                warning = {"level": "warning", "message": f"{said} was dropped"}
                self._show(Event(at, "note", attempt, task, host, warning))
            case wire.TaskEvent(task, _, _, "pulse", details):
                if not late:
                    self._decide(Event(at, "pulse", attempt, task, host, details))
            case wire.TaskEvent(task, _, told_at, kind, details):
                age_s = self._ages.of(host, at, told_at)
                extra = {"age_s": age_s, "log_tail": self._tail(task)} if kind in ("failure", "preempted") else {}
                self._happened(Event(at, kind, attempt, task, host, details), only_decide=extra)
            case wire.TaskUsage(task, _, memory_bytes, cpu_s, stopped, sent, received):
                traffic = {"sent_bytes": sent, "received_bytes": received}
                used = {"memory_bytes": memory_bytes, "cpu_s": cpu_s, **traffic}
                self._happened(Event(at, "usage", attempt, task, host, used), only_decide={"stopped": stopped})
            case wire.TaskStarted(task, _, _, pid):
                self._happened(Event(at, "task_started", attempt, task, host, {"pid": pid}))
            case wire.TaskStacks(task, _, data):
                self._happened(Event(at, "stacks", attempt, task, host, self._write_stacks(task, attempt, data)))
            case wire.TaskExited(task, _, ended_at, exit_code, number, text, why):
                name = None if number is None else _signal_name(number)
                known = len(self.state.failures) + self.state.restarted
                ending = {"exit_code": exit_code, "signal": name, "message": text, "why": why}
                event = Event(at, "task_exited", attempt, task, host, ending)
                extra = {"log_tail": self._tail(task), "age_s": self._ages.of(host, at, ended_at)}
                actions = () if late else self._step(event, extra)
                unchanged = len(self.state.failures) + self.state.restarted == known
                known_state = self.state.tasks[task]
                expected = late or (unchanged and known_state.failure is None and not known_state.given_up)
                self._show(replace(event, data={**event.data, "expected": expected}))
                self._carry_out(actions)
            case wire.TaskCleared(task, _):
                self._happened(Event(at, "task_cleared", attempt, task, host))

    def _write_stacks(self, task: str, attempt: int, data: bytes) -> dict[str, Any]:
        try:
            return {"path": self._rundir.write_stacks(attempt, task, data) if data else None}
        except DistrainError as error:
            self._tell("note", task, data={"level": "warning", "message": str(error)})
            return {"path": None}

    def _tail(self, task: str) -> list[str]:
        text = self._tails.get(task, b"").decode(errors="replace").replace("\r", "\n")
        return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]

    # ---- deciding, showing, doing

    def _happened(self, event: Event, only_decide: Mapping[str, Any] | None = None) -> None:
        self._show(event)
        if event.task is None or event.attempt == self.state.attempt:  # else it is of what has been cleared away
            self._carry_out(self._step(event, only_decide))

    def _decide(self, event: Event) -> None:
        self._carry_out(self._step(event))

    def _step(self, event: Event, extra: Mapping[str, Any] | None = None) -> tuple[Action, ...]:
        if extra:
            event = replace(event, data={**event.data, **extra})
        self.state, actions = decide(self.state, event)
        return actions

    def _tell(
        self, kind: str, task: str | None = None, host: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        self._show(Event(now(), kind, self.state.attempt, task, host, data or {}))

    def _show(self, event: Event) -> None:
        self._tally.event(event)
        self._each_sink(lambda sink: sink.event(event))

    def _each_sink(self, call: Callable[[Sink], None]) -> None:
        """A defect in one sink must not end the run, nor keep what happens from the others."""
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception:  # noqa: BLE001 - whatever it is, it is shown, and that sink is left out from now on
                self._sinks.remove(sink)
                traceback.print_exc()

    def _carry_out(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case OpenHosts(hosts):
                    self._hosts.open(hosts)
                case DropHosts(hosts):
                    self._hosts.drop(hosts)
                case ConnectHosts():
                    self._hosts.connect()
                case Reshape(gone):
                    self._decide(self._attempts.reshape(gone))
                case ChooseCheckpoint(before):
                    self._attempts.choose(before)
                case SendCheckpoint():
                    for heard in self._attempts.send_checkpoint():
                        self._heard(heard)
                case StartTasks(tasks):
                    self._start(tasks)
                case TryTasks(tasks):
                    self._hosts.try_tasks(tasks)
                case AskForStacks(tasks):
                    self._hosts.ask_for_stacks(tasks)
                case Stop(tasks, grace_s, again):
                    self._hosts.send_all(wire.StopTasks(tasks, grace_s, again))
                case Tell(kind, task, host, data):
                    self._tell(kind, task, host, data)
                case Abandon():
                    self.close()
                case End():
                    self._over = True

    def _start(self, tasks: tuple[str, ...]) -> None:
        """All of a new attempt, or those alone that are started again."""
        for name in tasks or self._attempts.host_of:
            self._tails.pop(name, None)
        if not tasks:
            for event in self._attempts.plan(self.state):
                self._show(replace(event, attempt=self.state.attempt))
        self._attempts.start(tasks)

    def close(self) -> None:
        """Lets every agent end, which leaves no process behind, and waits for it. May be called again."""
        for event in self._hosts.close():
            self._show(replace(event, attempt=self.state.attempt))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
