"""The agent's loop: reads the launcher's messages, sends what the tasks say, and ends with nothing left behind.

One thread. Nothing in it waits but `poll`, and nothing that it sends waits for the launcher to read.
It ends when the launcher says goodbye or is gone, when the guard is gone, or when it is asked to by a signal.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable

from distrain.agent import processes
from distrain.agent.host import welcome
from distrain.agent.outbox import Outbox, folder_on_disk
from distrain.agent.ports import Ports
from distrain.agent.tasks import Tasks
from distrain.agent.wakeup import ENDING, Wakeup
from distrain.wire import (
    AgentEnding,
    AgentNote,
    Decoder,
    Goodbye,
    Message,
    PortsReserved,
    Preload,
    ReservePorts,
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

_READ_BYTES = 1 << 20


def main(tree: str, guard_alive_fd: int, guard: int) -> int:
    """Run until the end. `guard_alive_fd` reaches its end when the process `guard`, our parent, is gone."""
    input_fd, output_fd = os.dup(0), os.dup(1)
    os.set_blocking(input_fd, False)
    os.set_blocking(output_fd, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # nothing but frames may get into the launcher's stream
    os.close(nothing)
    Agent(tree, input_fd, output_fd, guard_alive_fd).run()
    return 0


class Agent:
    def __init__(self, tree: str, input_fd: int, output_fd: int, guard_alive_fd: int) -> None:
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._guard_alive_fd = guard_alive_fd
        self._wakeup = Wakeup()
        self._decoder = Decoder()
        self._outbox = Outbox(folder_on_disk())
        self._tasks = Tasks(tree, self._send)
        self._ports = Ports()
        self._connected = True
        self._guarded = True
        self._end_by: float | None = None

    def run(self) -> None:
        self._send(welcome())
        while self._end_by is None or (self._tasks and time.monotonic() < self._end_by):
            self._wait()
            self._tasks.tick()
        left = processes.end_all_below(KILL_TIMEOUT_S)
        if left:
            numbers = ", ".join(str(process.pid) for process in left)
            self._send(AgentNote("error", f"these processes were killed but do not end, see `ps {numbers}`"))
        self._say_farewell()

    def _wait(self) -> None:
        """Wait for the first thing to happen, and handle all that have."""
        now = time.monotonic()
        has_room = self._outbox.has_room
        handlers: dict[int, Callable[[], object]] = dict(self._tasks.sources(now, has_room))
        handlers[self._wakeup.fd] = self._signalled
        if self._connected:
            handlers[self._input_fd] = self._receive
        if self._guarded:
            handlers[self._guard_alive_fd] = self._guard_gone
        poll = select.poll()
        for fd in handlers:
            poll.register(fd, select.POLLIN)
        if not self._outbox.closed:
            handlers[self._output_fd] = self._flush
            poll.register(self._output_fd, select.POLLOUT if self._outbox else 0)
        due = min(self._tasks.next_tick(now, has_room), self._end_by or math.inf)
        timeout_ms = None if due == math.inf else max(0.0, due - now) * 1000
        for fd, _ in poll.poll(timeout_ms):
            handlers[fd]()

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
        try:
            for message in self._decoder.feed(data):
                self._obey(message)
        except WireError as error:
            self._connected = False
            self._send(AgentNote("error", f"the agent could not read what the launcher sent: {error}"))
            self._end("the launcher sent something that is no message")

    def _obey(self, message: Message) -> None:
        match message:
            case Preload():
                self._tasks.preload(message)
            case StartTask():
                self._tasks.start(message)
            case StopTasks():
                self._tasks.stop(message.tasks, message.grace_s)
            case ReservePorts():
                self._send(PortsReserved(self._ports.reserve(message.count, message.among)))
            case Goodbye():
                self._end(None)
            case _:
                raise WireError(f"{type(message).__name__} is not for an agent")

    def _guard_gone(self) -> None:
        self._guarded = False
        self._end("the agent's guard was killed")

    def _end(self, reason: str | None) -> None:
        """End everything. `reason` None: the launcher asked for it, or is gone."""
        if self._end_by is None:
            if reason is not None:
                self._send(AgentEnding(reason))
            self._end_by = time.monotonic() + END_GRACE_S + KILL_TIMEOUT_S
            self._tasks.end(END_GRACE_S, reason or "the run is ending")

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
            ready = dict(poll.poll(None if self._connected else FAREWELL_S * 1000))
            if not ready or self._wakeup.take() & ENDING:
                return
            if self._input_fd in ready:
                with contextlib.suppress(BlockingIOError):
                    self._connected = bool(os.read(self._input_fd, _READ_BYTES))
            if self._output_fd in ready:
                self._flush()
