"""The agent's loop: reads the launcher's messages, sends what the tasks say, and ends with nothing left behind.

One thread. Nothing in it waits but `poll`, and nothing that it sends waits for the launcher to read.
It ends when the launcher says goodbye or is gone, when the guard is gone, or when it is asked to by a signal, each in
the way that `ending` has for it. A launcher far away is gone, too, when nothing has been heard of it for as long as it
said at first.
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
from distrain.agent.aside import Asides
from distrain.agent.ending import END_GRACE_S, KILL_TIMEOUT_S, PREEMPTION_GRACE_S, Asked, Ending
from distrain.agent.folder import FolderError, RunFolder
from distrain.agent.guard import LOST_CONNECTION_S
from distrain.agent.harm import Harms
from distrain.agent.host import welcome
from distrain.agent.lifeline import AgentsEnd, Charge
from distrain.agent.opening import Opening
from distrain.agent.outbox import Outbox, folder_on_disk
from distrain.agent.ports import Ports
from distrain.agent.questions import Questions
from distrain.agent.receiving import Receiving
from distrain.agent.shipping import Shipping
from distrain.agent.tasks import Tasks
from distrain.agent.wakeup import ENDING, Wakeup
from distrain.arrival import discard
from distrain.contact import Contact
from distrain.wire import (
    AgentEnding,
    AgentNote,
    CodePart,
    Decoder,
    DumpStacks,
    Examine,
    FilePart,
    Goodbye,
    Harm,
    Message,
    OpenRun,
    Ping,
    Pong,
    PortsReserved,
    Preload,
    Probe,
    ReservePorts,
    RunOpened,
    StartTask,
    StopTasks,
    WireError,
    encode,
)

FAREWELL_S = 5.0
"""How long the last bytes wait for a launcher that has closed its end and reads nothing."""
FIRST_ORDER_S = 300.0
"""A launcher asks for something at once. One that has not after this long is gone."""

_READ_BYTES = 1 << 20


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
        self._questions = Questions(self._asides, self._send)
        self._harms = Harms(self._asides, self._tasks.running, self._send)
        self._receiving = Receiving(None, lambda _: None, self._send)
        self._contact: Contact | None = Contact(FIRST_ORDER_S)
        self._folder: RunFolder | None = None
        self._opening: Opening | None = None
        self._shipping: Shipping | None = None
        self._connected = True
        self._guarded = True
        self._child_ended = False
        self._ending = Ending()

    def run(self) -> None:
        self._send(welcome())
        try:
            while not self._is_over():
                self._wait()
                self._tasks.tick()
                self._harms.tick()
                self._ports.greeter.tick()
                if self._shipping and self._outbox.is_low:
                    self._shipping.advance()
        finally:
            left = processes.end_all_below(KILL_TIMEOUT_S)
            self._harms.undo()
        if left:
            numbers = ", ".join(str(process.pid) for process in left)
            self._send(AgentNote("error", f"these processes were killed but do not end, see `ps {numbers}`"))
        self._say_farewell()
        if self._folder is not None:
            discard(self._folder.path)

    def _is_over(self) -> bool:
        """Whether the end has begun, and nothing is left that it waits for."""
        by = self._ending.by
        return by is not None and (time.monotonic() >= by if self._tasks else not self._shipping)

    def _wait(self) -> None:
        """Wait for the first thing to happen, and handle all that have."""
        now = time.monotonic()
        has_room = self._outbox.has_room
        handlers: dict[int, Callable[[], object]] = {}
        if self._guarded:  # first: where it ends, an ssh server hangs up too, which would pass for the launcher's wish
            handlers[self._guard.fd] = self._guard_gone
        handlers[self._wakeup.fd] = self._signalled  # who signals us may have signalled our processes, too
        handlers.update(self._tasks.sources(now, has_room))
        handlers.update(self._asides.sources())
        handlers.update(self._ports.greeter.sources())
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
        if self._child_ended:  # after what it may have said
            self._child_ended = False
            self._tasks.reap()
        self._keep_contact()

    def _timeout_ms(self, now: float, has_room: bool) -> float | None:
        if self._shipping and self._outbox.is_low:
            return 0
        due = min(
            self._tasks.next_tick(now, has_room),
            self._ports.greeter.next_tick,
            self._harms.due,
            self._contact.due if self._contact is not None else math.inf,
            self._ending.by if self._ending.by is not None and self._tasks else math.inf,
        )
        return None if due == math.inf else max(0.0, due - now) * 1000

    def _keep_contact(self) -> None:
        """Tell the guard that we are there, and notice if the launcher is not."""
        if self._contact is None:
            return
        if self._folder is not None:
            self._guard.beat()
        if self._contact.look() and self._connected:
            self._launcher_gone(f"nothing has been heard of the launcher for {self._contact.timeout_s:g} s")

    def _signalled(self) -> None:
        numbers = self._wakeup.take()
        asked = self._ending.heed(numbers, time.monotonic())
        if asked is not None:
            number = signal.SIGTERM if signal.SIGTERM in numbers else min(numbers & ENDING)
            reason = f"the agent was ended by {signal.Signals(number).name}"
            (self._leave if asked is Asked.TO_LEAVE else self._end)(reason)
        self._child_ended = signal.SIGCHLD in numbers

    def _receive(self) -> None:
        try:
            data = os.read(self._input_fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._launcher_gone(None)
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
                folder = self._folder.path if self._folder is not None else self._cache
                self._questions.examine(message.python, folder)
            case Probe():
                self._questions.probe(message)
            case Preload():
                self._tasks.preload(message)
            case StartTask():
                self._ports.greeter.close()
                if self._shipping is not None:
                    self._shipping.task_starts()
                self._tasks.start(message)
            case StopTasks():
                if self._shipping is not None:
                    self._shipping.tasks_stop(message.again and not self._ending.has_begun)
                self._tasks.stop(message.tasks, message.grace_s)
            case DumpStacks():
                self._tasks.ask_for_stacks(message.tasks)
            case FilePart():
                self._receiving.take(message)
            case Harm():
                self._harms.do(message, self._folder.run if self._folder is not None else None)
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
        self._receiving = Receiving(folder.run, self._shipping.came, self._send)
        self._opening = Opening(order, folder, self._cache, self._asides, self._send)

    def _guard_gone(self) -> None:
        self._guarded = False
        self._end("the agent's guard was killed")

    def _launcher_gone(self, reason: str | None) -> None:
        """Nothing can be heard from it or said to it any more."""
        self._connected = False
        if self._shipping is not None:
            self._shipping.stop()
        if not self._ending.is_preempted:
            self._end(reason, asked=False)

    def _leave(self, reason: str) -> None:
        """The host is to be left: let the tasks end by themselves, and send what they have left."""
        self._begin_ending(AgentEnding(reason, preempted=True))
        self._ending.leave(time.monotonic())
        if self._shipping is not None:
            self._shipping.tasks_stop(again=False)
        self._tasks.end(PREEMPTION_GRACE_S, reason, at_least=True)

    def _end(self, reason: str | None, *, asked: bool = True) -> None:
        """End everything soon. `reason` None: the launcher asked for it, or is gone."""
        self._begin_ending(None if reason is None else AgentEnding(reason))
        self._ending.end(time.monotonic(), asked=asked)
        if self._shipping is not None:
            self._shipping.stop()
        self._tasks.end(END_GRACE_S, reason or "the run is ending")

    def _begin_ending(self, told: AgentEnding | None) -> None:
        if told is not None and not self._ending.has_begun:
            self._send(told)

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
            self._launcher_gone(None)

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
            if not (ready or self._connected) or self._ending.heed(self._wakeup.take(), time.monotonic()):
                return
            if self._input_fd in ready:
                with contextlib.suppress(BlockingIOError):
                    self._connected = bool(os.read(self._input_fd, _READ_BYTES))
                if self._contact is not None:
                    self._contact.heard()
            if self._output_fd in ready:
                self._flush()
            self._keep_contact()
