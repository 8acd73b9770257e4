"""The agent's loop: reads the launcher's messages, sends what the tasks say, and ends with nothing left behind.

One thread. Nothing in it waits but `poll`, and nothing that it sends waits for the launcher to read.
It ends when the launcher says goodbye or is gone, when the guard is gone, or when it is asked to by a signal.
A launcher far away is gone, too, when nothing has been heard of it for as long as it said at first.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from distrain.agent import processes
from distrain.agent.aside import Asides
from distrain.agent.folder import FolderError, RunFolder, remove
from distrain.agent.guard import LOST_CONNECTION_S
from distrain.agent.host import welcome
from distrain.agent.lifeline import AgentsEnd, Charge
from distrain.agent.opening import Opening
from distrain.agent.outbox import Outbox, folder_on_disk
from distrain.agent.ports import Ports
from distrain.agent.probes import probe
from distrain.agent.shipping import Shipping
from distrain.agent.tasks import Tasks
from distrain.agent.wakeup import ENDING, Wakeup
from distrain.contact import Contact
from distrain.wire import (
    AgentEnding,
    AgentNote,
    CodePart,
    Decoder,
    Examine,
    Examined,
    Goodbye,
    Message,
    OpenRun,
    Ping,
    Pong,
    PortsReserved,
    Preload,
    Probe,
    Probed,
    ReservePorts,
    RunOpened,
    StartTask,
    StopTasks,
    WireError,
    encode,
)

END_GRACE_S = 5.0
"""Between TERM and KILL when everything ends."""
KILL_TIMEOUT_S = 10.0
"""After this long a killed process that is still there is stuck in the kernel: it is left to the guard."""
FAREWELL_S = 5.0
"""How long the last bytes wait for a launcher that has closed its end and reads nothing."""
FIRST_ORDER_S = 300.0
"""A launcher asks for something at once. One that has not after this long is gone."""

_READ_BYTES = 1 << 20
_ASIDE_KILLED = "the agent's helper process ended before it could tell; see whether memory runs short there"


def main(tree: str, cache: str | None, guard: AgentsEnd) -> int:
    """Run until the end. `tree` holds distrain's code, and `cache` the trees of all versions, if there is one."""
    input_fd, output_fd = os.dup(0), os.dup(1)
    os.set_blocking(input_fd, False)
    os.set_blocking(output_fd, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # nothing but frames may get into the launcher's stream
    os.close(nothing)
    Agent(tree, cache, input_fd, output_fd, guard).run()
    return 0


class Agent:
    def __init__(self, tree: str, cache: str | None, input_fd: int, output_fd: int, guard: AgentsEnd) -> None:
        self._cache = cache
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._guard = guard
        self._wakeup = Wakeup()
        self._decoder = Decoder()
        self._outbox = Outbox(folder_on_disk())
        self._tasks = Tasks(tree, self._tell)
        self._ports = Ports()
        self._asides = Asides()
        self._contact: Contact | None = Contact(FIRST_ORDER_S)
        self._folder: RunFolder | None = None
        self._opening: Opening | None = None
        self._shipping: Shipping | None = None
        self._connected = True
        self._guarded = True
        self._end_by: float | None = None

    def run(self) -> None:
        self._send(welcome())
        while self._end_by is None or (self._tasks and time.monotonic() < self._end_by):
            self._wait()
            self._tasks.tick()
            self._ports.greeter.tick()
            if self._shipping and self._outbox.is_low:
                self._shipping.advance()
        left = processes.end_all_below(KILL_TIMEOUT_S)
        if left:
            numbers = ", ".join(str(process.pid) for process in left)
            self._send(AgentNote("error", f"these processes were killed but do not end, see `ps {numbers}`"))
        self._say_farewell()
        if self._folder is not None:
            remove(self._folder.path)

    def _wait(self) -> None:
        """Wait for the first thing to happen, and handle all that have."""
        now = time.monotonic()
        has_room = self._outbox.has_room
        handlers: dict[int, Callable[[], object]] = {}
        if self._guarded:  # first: where it ends, an ssh server hangs up too, which would pass for the launcher's wish
            handlers[self._guard.fd] = self._guard_gone
        handlers.update(self._tasks.sources(now, has_room))
        handlers.update(self._asides.sources())
        handlers.update(self._ports.greeter.sources())
        handlers[self._wakeup.fd] = self._signalled
        if self._connected:
            handlers[self._input_fd] = self._receive
        poll = select.poll()
        for fd in handlers:
            poll.register(fd, select.POLLIN)
        if not self._outbox.closed:
            handlers[self._output_fd] = self._flush
            poll.register(self._output_fd, select.POLLOUT if self._outbox else 0)
        for fd, _ in poll.poll(self._timeout_ms(now, has_room)):
            handlers[fd]()
        self._keep_contact()

    def _timeout_ms(self, now: float, has_room: bool) -> float | None:
        if self._shipping and self._outbox.is_low:
            return 0
        due = min(
            self._tasks.next_tick(now, has_room),
            self._ports.greeter.next_tick,
            self._contact.due if self._contact is not None else math.inf,
            self._end_by or math.inf,
        )
        return None if due == math.inf else max(0.0, due - now) * 1000

    def _keep_contact(self) -> None:
        """Tell the guard that we are there, and notice if the launcher is not."""
        if self._contact is None:
            return
        if self._folder is not None:
            self._guard.beat()
        if self._contact.look() and self._connected:
            self._connected = False
            self._end(f"nothing has been heard of the launcher for {self._contact.timeout_s:g} s")

    def _signalled(self) -> None:
        numbers = self._wakeup.take()
        if signal.SIGCHLD in numbers:
            self._tasks.reap()
        for number in numbers & ENDING:
            self._end(f"the agent was ended by {signal.Signals(number).name}")

    def _receive(self) -> None:
        try:
            data = os.read(self._input_fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._connected = False
            self._end(None)
            return
        if self._contact is not None:
            self._contact.heard()
        try:
            for message in self._decoder.feed(data):
                self._obey(message)
        except WireError as error:
            self._connected = False
            self._send(AgentNote("error", f"the agent could not read what the launcher sent: {error}"))
            self._end("the launcher sent something that is no message")

    def _obey(self, message: Message) -> None:
        if self._folder is None:
            self._contact = None  # the launcher is there, and if it is far away it says how long to wait for it
        match message:
            case OpenRun():
                self._open(message)
            case CodePart() if self._opening is not None:
                self._opening.take(message)
                self._send(Pong(0))
            case Ping():
                self._send(Pong(message.number))
            case Examine():
                self._examine(message.python)
            case Probe():
                work = partial(probe, message.targets, message.timeout_s)
                self._asides.run(work, partial(self._probed, message))
            case Preload():
                self._tasks.preload(message)
            case StartTask():
                self._ports.greeter.close()
                if self._shipping is not None and not self._tasks:
                    self._shipping.tasks_start()
                self._tasks.start(message)
            case StopTasks():
                self._tasks.stop(message.tasks, message.grace_s)
            case ReservePorts():
                self._send(PortsReserved(self._ports.reserve(message.count, message.among, message.token)))
            case Goodbye():
                self._end(None)
            case _:
                raise WireError(f"{type(message).__name__} is not for an agent")

    def _open(self, order: OpenRun) -> None:
        if self._folder is not None:
            raise WireError("a run is open already")
        self._contact = Contact(order.contact_timeout_s)
        try:
            folder = self._folder = RunFolder(order.run, self._cache)
        except FolderError as error:
            self._send(RunOpened("", str(error)))
            return
        self._guard.charge(Charge(folder.path, order.contact_timeout_s + LOST_CONNECTION_S))
        self._asides.run(folder.remove_stale, lambda _: None)
        self._shipping = Shipping(folder.run, folder.code, lambda: bool(self._tasks), self._send)
        self._opening = Opening(order, folder, self._cache, self._asides, self._send)

    def _examine(self, python: str) -> None:
        from distrain.agent.examine import examine  # here, as a local run needs none of what it imports

        folder = self._folder.path if self._folder is not None else self._cache
        self._asides.run(partial(examine, python, folder), self._examined)

    def _examined(self, found: dict[str, Any] | None) -> None:
        facts = found or {"versions": {}, "free_bytes": 0, "gpus": (), "error": _ASIDE_KILLED}
        self._send(Examined(**{**facts, "time": time.time()}))

    def _probed(self, order: Probe, found: list[str | None] | None) -> None:
        self._send(Probed(order.number, tuple([_ASIDE_KILLED] * len(order.targets) if found is None else found)))

    def _guard_gone(self) -> None:
        self._guarded = False
        self._end("the agent's guard was killed")

    def _end(self, reason: str | None) -> None:
        """End everything. `reason` None: the launcher asked for it, or is gone."""
        if self._end_by is None:
            if reason is not None:
                self._send(AgentEnding(reason))
            self._end_by = time.monotonic() + END_GRACE_S + KILL_TIMEOUT_S
            if self._shipping is not None:
                self._shipping.stop()
            self._tasks.end(END_GRACE_S, reason or "the run is ending")

    def _tell(self, message: Message) -> None:
        """Pass on what a task says."""
        if self._shipping is not None:
            self._shipping.pass_on(message)
        else:
            self._send(message)

    def _send(self, message: Message) -> None:
        self._outbox.append(encode(message))

    def _flush(self) -> None:
        try:
            self._outbox.send(self._output_fd)
        except OSError:
            self._outbox.close()
            self._connected = False
            self._end(None)

    def _say_farewell(self) -> None:
        """Send what is left. A launcher that is merely slow, or stopped, gets all the time that it needs."""
        while self._outbox:
            poll = select.poll()
            poll.register(self._output_fd, select.POLLOUT)
            poll.register(self._wakeup.fd, select.POLLIN)
            if self._connected:
                poll.register(self._input_fd, select.POLLIN)
                timeout_s = None if self._contact is None else max(0.0, self._contact.due - time.monotonic())
            else:
                timeout_s = FAREWELL_S
            ready = dict(poll.poll(None if timeout_s is None else timeout_s * 1000))
            if not (ready or self._connected) or self._wakeup.take() & ENDING:
                return
            if self._input_fd in ready:
                with contextlib.suppress(BlockingIOError):
                    self._connected = bool(os.read(self._input_fd, _READ_BYTES))
                if self._contact is not None:
                    self._contact.heard()
            if self._output_fd in ready:
                self._flush()
            self._keep_contact()
