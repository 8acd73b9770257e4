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
from distrain.job.cluster import chief_of, place, serves
from distrain.job.masking import masked_arguments
from distrain.job.plan import make_plan
from distrain.launcher.events import Event, Sink, flaw, now
from distrain.launcher.hosts import Hosts
from distrain.launcher.outset import Outset
from distrain.launcher.state import (
    Abandon,
    Action,
    ConnectHosts,
    End,
    Policy,
    StartTasks,
    Stop,
    TaskState,
    Tell,
    TryTasks,
)
from distrain.launcher.summary import Tally
from distrain.launcher.supervise import begin, decide

TICK_S = 0.1
TAIL_BYTES = 16 * 1024
TAIL_LINES = 20
_UNTOLD = frozenset({"receiving", "tried"})
"""Kinds that matter to what is decided, and to nobody else."""


class Loop:
    """One run. `state` is what has been decided so far."""

    def __init__(self, outset: Outset, sinks: tuple[Sink, ...], signals: socket.socket | None, *, began: float) -> None:
        job = outset.job
        self._job = job
        self._rundir = outset.rundir
        self._sinks = list(sinks)
        self._placements = place(job)
        self._host_of = {str(placement.task): placement.host.name for placement in self._placements}
        self._hosts = Hosts(outset, self._placements)
        chief = chief_of([placement.task for placement in self._placements])
        self.state = begin(
            (
                TaskState(str(p.task), p.host.name, serves=serves(job, p.task), speaks=job.program is None)
                for p in self._placements
            ),
            str(chief),
            time=began,
            policy=Policy(start_timeout_s=job.cluster.start_timeout_s),
        )
        self._tally = Tally(began)
        self._tails: dict[str, bytes] = {}
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
            },
        )
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
        self._decide(Event(at, "tick", self.state.attempt))
        self._each_sink(lambda sink: sink.tick(at))

    def _wait(self, timeout_s: float) -> None:
        wanted = self._hosts.interest()
        watched = self._selector.get_map().values()
        registered = {key.fd: key for key in watched if key.fileobj is not self._signals}
        for fd in registered.keys() - wanted.keys():
            self._selector.unregister(fd)
        for fd, (mask, host) in wanted.items():
            if fd not in registered:
                self._selector.register(fd, mask, host)
            elif (registered[fd].events, registered[fd].data) != (mask, host):
                self._selector.modify(fd, mask, host)
        ready = self._selector.select(timeout_s)
        for host in dict.fromkeys(key.data for key, _ in ready if key.fileobj is not self._signals):
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
        at, attempt, host = now(), self.state.attempt, self._host_of[message.task]
        match message:
            case wire.TaskOutput(task, _, data):
                self._tails[task] = (self._tails.get(task, b"") + data)[-TAIL_BYTES:]
                self._each_sink(lambda sink: sink.output(at, task, data))
            case wire.TaskEvent(task, _, _, kind, details) if said := flaw(kind, details):
                warning = {"level": "warning", "message": f"{said} was dropped"}
                self._happened(Event(at, "note", attempt, task, host, warning))
            case wire.TaskEvent(task, _, _, kind, details):
                tail = {"log_tail": self._tail(task)} if kind == "failure" else {}
                self._happened(Event(at, kind, attempt, task, host, details), only_decide=tail)
            case wire.TaskUsage(task, _, memory_bytes, cpu_s):
                self._happened(Event(at, "usage", attempt, task, host, {"memory_bytes": memory_bytes, "cpu_s": cpu_s}))
            case wire.TaskStarted(task, _, _, pid):
                self._happened(Event(at, "task_started", attempt, task, host, {"pid": pid}))
            case wire.TaskExited(task, _, _, exit_code, number, text):
                name = None if number is None else _signal_name(number)
                known = len(self.state.failures)
                event = Event(
                    at, "task_exited", attempt, task, host, {"exit_code": exit_code, "signal": name, "message": text}
                )
                actions = self._step(event, {"log_tail": self._tail(task)})
                expected = len(self.state.failures) == known and self.state.tasks[task].failure is None
                self._show(replace(event, data={**event.data, "expected": expected}))
                self._carry_out(actions)
            case wire.TaskCleared(task, _):
                self._happened(Event(at, "task_cleared", attempt, task, host))

    def _tail(self, task: str) -> list[str]:
        text = self._tails.get(task, b"").decode(errors="replace").replace("\r", "\n")
        return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]

    # ---- deciding, showing, doing

    def _happened(self, event: Event, only_decide: Mapping[str, Any] | None = None) -> None:
        self._show(event)
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
                case ConnectHosts():
                    self._hosts.connect()
                case StartTasks():
                    self._start()
                case TryTasks(tasks):
                    self._hosts.try_tasks(tasks)
                case Stop(tasks, grace_s):
                    self._hosts.send_all(wire.StopTasks(tasks, grace_s))
                case Tell(kind, task, host, data):
                    self._tell(kind, task, host, data)
                case Abandon():
                    self.close()
                case End():
                    self._over = True

    def _start(self) -> None:
        plan = make_plan(
            self._job,
            self._placements,
            self._hosts.addresses(),
            run=self._rundir.name,
            attempt=self.state.attempt,
            facts=self._hosts.facts(),
        )
        self._rundir.write_plan(plan.to_json())
        self._tell("attempt_started")
        for task in plan.tasks:
            order = wire.StartTask(str(task.task), plan.attempt, task.argv, task.env, task.cwd, task.warm, task.stdin())
            self._hosts.send(task.host, order)

    def close(self) -> None:
        """Lets every agent end, which leaves no process behind, and waits for it. May be called again."""
        for event in self._hosts.close():
            self._show(replace(event, attempt=self.state.attempt))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
