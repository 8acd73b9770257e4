"""The launcher's loop: feeds every message to `decide` and the sinks, and carries out what is decided.

Owns the connections to the hosts while a run lasts. What events mean is `supervise`'s, how a host is reached is the
transports', what is recorded and shown is the sinks'.
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
from distrain.job.cluster import LOCAL, Task, chief_of, needs_address, place
from distrain.job.dialects import preload_environment
from distrain.job.masking import masked_arguments
from distrain.job.plan import make_plan
from distrain.job.spec import JobSpec
from distrain.launcher.bundle import Bundle
from distrain.launcher.events import Event, Sink, flaw
from distrain.launcher.link import AgentLink
from distrain.launcher.rundir import RunDir
from distrain.launcher.state import Abandon, Action, End, StartTasks, Stop, TaskState, Tell
from distrain.launcher.summary import Tally
from distrain.launcher.supervise import begin, decide
from distrain.launcher.transports import open_transport

TICK_S = 0.1
TAIL_BYTES = 16 * 1024
TAIL_LINES = 20
FAREWELL_S = 5.0


class Loop:
    """One run's connections and sinks. `state` is what has been decided so far."""

    def __init__(
        self,
        job: JobSpec,
        rundir: RunDir,
        sinks: tuple[Sink, ...],
        bundle: Bundle,
        signals: socket.socket | None,
        *,
        python: str,
        cwd: str,
        import_paths: tuple[str, ...],
        began: float,
    ) -> None:
        self._job = job
        self._rundir = rundir
        self._sinks = list(sinks)
        self._bundle = bundle
        self._python = python
        self._cwd = cwd
        self._import_paths = import_paths
        self._placements = place(job, (LOCAL,))
        serves = job.strategy.name == "ParameterServer"
        chief = chief_of([placement.task for placement in self._placements])
        self.state = begin(
            (TaskState(str(p.task), p.host.name, serves and p.task != chief) for p in self._placements),
            str(chief),
            time=began,
        )
        self._tally = Tally(began)
        self._welcomes: dict[str, wire.Welcome] = {}
        self._ports: dict[str, tuple[int, ...]] = {}
        self._tails: dict[str, bytes] = {}
        self._over = False
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        if signals is not None:
            self._selector.register(signals, selectors.EVENT_READ)
        self._links: dict[str, AgentLink] = {}

    # ---- the loop

    def run(self) -> dict[str, Any]:
        """Until nothing of the run is left. Returns the summary, which is then also written."""
        self._tell(
            "run_started",
            data={
                "run": self._rundir.name,
                "run_dir": str(self._rundir.path),
                "name": self._job.name,
                "strategy": self._job.strategy.name,
                "tasks": [[task.name, task.host] for task in self.state.tasks.values()],
                "epochs": self._job.training.epochs,
                "argv": masked_arguments(sys.argv),
            },
        )
        for host in {placement.host.name for placement in self._placements}:
            self._links[host] = AgentLink(host, open_transport("local"), self._bundle, python=self._python)
        last_tick = 0.0
        while not self._over:
            self._wait(TICK_S)
            for host in list(self._links):
                self._hear(host)
            if time.time() - last_tick >= TICK_S:
                last_tick = time.time()
                self._tick(last_tick)
        summary = self._tally.summary(self.state, run=self._rundir.name, name=self._job.name, ended=time.time())
        try:
            self._rundir.write_summary(summary)
        except DistrainError as error:  # the end is told all the same
            self._tell("note", data={"level": "error", "message": str(error)})
        self._tell("run_ended", data=summary)
        return summary

    def _tick(self, now: float) -> None:
        self._decide(Event(now, "tick", self.state.attempt))
        self._each_sink(lambda sink: sink.tick(now))

    def _wait(self, timeout_s: float) -> None:
        wanted = {fd: mask for link in self._links.values() for fd, mask in link.interest().items()}
        watched = self._selector.get_map().values()
        registered = {key.fd: key.events for key in watched if key.fileobj is not self._signals}
        for fd in registered.keys() - wanted.keys():
            self._selector.unregister(fd)
        for fd, mask in wanted.items():
            if fd not in registered:
                self._selector.register(fd, mask)
            elif registered[fd] != mask:
                self._selector.modify(fd, mask)
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._signals:
                assert self._signals is not None
                for number in self._signals.recv(64):
                    if number not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                        continue
                    self._decide(Event(time.time(), "signal", self.state.attempt, data={"number": number}))

    def _hear(self, host: str) -> None:
        try:
            for message in self._links[host].receive():
                self._take(host, message)
        except (DistrainError, wire.WireError) as error:
            self._links.pop(host).close()
            self._happened(Event(time.time(), "host_lost", self.state.attempt, host=host, data={"message": str(error)}))

    # ---- what is heard

    def _take(self, host: str, message: wire.Message) -> None:
        now = time.time()
        attempt = self.state.attempt
        match message:
            case wire.TaskOutput(task, _, data):
                self._tails[task] = (self._tails.get(task, b"") + data)[-TAIL_BYTES:]
                self._each_sink(lambda sink: sink.output(now, task, data))
            case wire.TaskEvent(task, _, _, kind, details) if said := flaw(kind, details):
                warning = {"level": "warning", "message": f"{said} was dropped"}
                self._happened(Event(now, "note", attempt, task, host, warning))
            case wire.TaskEvent(task, _, _, kind, details):
                tail = {"log_tail": self._tail(task)} if kind == "failure" else {}
                self._happened(Event(now, kind, attempt, task, host, details), only_decide=tail)
            case wire.TaskUsage(task, _, memory_bytes, cpu_s):
                self._happened(Event(now, "usage", attempt, task, host, {"memory_bytes": memory_bytes, "cpu_s": cpu_s}))
            case wire.TaskStarted(task, _, _, pid):
                self._happened(Event(now, "task_started", attempt, task, host, {"pid": pid}))
            case wire.TaskExited(task, _, _, exit_code, number, text):
                name = None if number is None else _signal_name(number)
                known = len(self.state.failures)
                event = Event(
                    now, "task_exited", attempt, task, host, {"exit_code": exit_code, "signal": name, "message": text}
                )
                actions = self._step(event, {"log_tail": self._tail(task)})
                expected = len(self.state.failures) == known and self.state.tasks[task].failure is None
                self._show(replace(event, data={**event.data, "expected": expected}))
                self._carry_out(actions)
            case wire.TaskCleared(task, _):
                self._happened(Event(now, "task_cleared", attempt, task, host))
            case wire.AgentEnding(reason):
                ending = {"message": f"{host}: {reason}, and everything on {host} with it"}
                self._happened(Event(now, "host_ending", attempt, host=host, data=ending))
            case wire.AgentNote(level, text):
                self._happened(Event(now, "agent_note", attempt, host=host, data={"level": level, "message": text}))
            case wire.Welcome():
                self._welcome(host, message, now)
            case wire.PortsReserved(ports):
                self._ports[host] = ports
                self._prepared(host, now)

    def _welcome(self, host: str, welcome: wire.Welcome, now: float) -> None:
        self._welcomes[host] = welcome
        data = {
            "hostname": welcome.hostname,
            "cores": welcome.cores,
            "memory_bytes": welcome.memory_bytes,
            "python": welcome.python,
        }
        self._happened(Event(now, "host_opened", self.state.attempt, host=host, data=data))
        link = self._links[host]
        if self._job.warm:
            link.send(wire.Preload(self._python, preload_environment(self._job), self._import_paths))
        wanted = len(self._addressed(host))
        if wanted:
            link.send(wire.ReservePorts(wanted, self._job.cluster.ports))
        else:
            self._prepared(host, now)

    def _addressed(self, host: str) -> list[Task]:
        """The tasks on `host` that peers connect to, in the order in which its ports are given out."""
        return [p.task for p in self._placements if p.host.name == host and needs_address(self._job, p.task)]

    def _prepared(self, host: str, now: float) -> None:
        wanted, got = len(self._addressed(host)), len(self._ports.get(host, ()))
        if got < wanted:
            message = (
                f"{host}: {wanted} ports are needed, and only {got} of those in cluster.ports are free; "
                "name more of them, or leave cluster.ports out to take any free port"
            )
            self._links.pop(host).close()
            self._happened(Event(now, "host_lost", self.state.attempt, host=host, data={"message": message}))
        else:
            self._happened(Event(now, "host_prepared", self.state.attempt, host=host))

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
        self._show(Event(time.time(), kind, self.state.attempt, task, host, data or {}))

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
                case StartTasks():
                    self._start()
                case Stop(tasks, grace_s):
                    for link in self._links.values():
                        link.send(wire.StopTasks(tasks, grace_s))
                case Tell(kind, task, host, data):
                    self._tell(kind, task, host, data)
                case Abandon():
                    self.close_links()
                case End():
                    self._over = True

    def _start(self) -> None:
        addresses = {
            task: f"127.0.0.1:{port}"
            for host in self._links
            for task, port in zip(self._addressed(host), self._ports.get(host, ()), strict=False)
        }
        plan = make_plan(
            self._job,
            self._placements,
            addresses,
            run=self._rundir.name,
            run_dir=str(self._rundir.path),
            attempt=self.state.attempt,
            python=self._python,
            cwd=self._cwd,
            import_paths=self._import_paths,
            cores={host: welcome.cores for host, welcome in self._welcomes.items()},
            gpus={host: welcome.gpus for host, welcome in self._welcomes.items()},
        )
        self._rundir.write_plan(plan.to_json())
        self._tell("attempt_started")
        for task in plan.tasks:
            self._links[task.host].send(
                wire.StartTask(
                    str(task.task),
                    plan.attempt,
                    task.argv,
                    task.env,
                    task.cwd,
                    task.warm,
                    task.stdin(),
                )
            )

    # ---- the end

    def close_links(self) -> None:
        """Lets every agent end, which leaves no process behind, and waits for it."""
        for link in self._links.values():
            link.send(wire.Goodbye())
        deadline = time.monotonic() + FAREWELL_S
        for link in self._links.values():
            link.close(timeout_s=max(0.1, deadline - time.monotonic()))
        self._links.clear()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
