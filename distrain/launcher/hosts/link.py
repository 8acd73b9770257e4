"""One host's agent, as the launcher sees it: a process to start, and messages that come and go.

Owns the connection's process and descriptors, and the sentences about a connection that fails. Nothing waits but
`close` and `close_all`: the launcher's loop watches what `interest` names and calls `receive`, also when `deadline` has
come.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import select
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence

from distrain.errors import HostError
from distrain.job.cluster import LOCAL
from distrain.launcher.hosts.bundle import Bundle
from distrain.launcher.hosts.handshake import MINIMUM_PYTHON, Handshake, Refusal
from distrain.launcher.transports import Transport
from distrain.wire import AgentNote, Decoder, Goodbye, Message, Welcome, WireError, encode

HANDSHAKE_TIMEOUT_S = 30.0

LOW_BYTES = 2 << 20
"""With less than this waiting to be written, what can wait may be sent: it goes between what cannot."""

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_READS_PER_CALL = 4
_STDERR_TAIL_BYTES = 8192
_EXIT_STATUS_WAIT_S = 0.5
_KILLED_WAIT_S = 2.0
"""A killed process that takes longer is stuck in the kernel, and nobody can end it."""


class _State(enum.Enum):
    SHAKING_HANDS = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()


class AgentLink:
    """The connection to the agent on the host called `host`: `bundle`, brought there by `transport` and run by its
    `python`. `inherits`: a descriptor that the connection's process keeps open for as long as it lives.

    Raises:
        HostError: it cannot be started at all.
    """

    def __init__(
        self,
        host: str,
        transport: Transport,
        bundle: Bundle,
        *,
        python: str,
        cache: str | None = None,
        minimum_python: tuple[int, int] = MINIMUM_PYTHON,
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
        inherits: int | None = None,
    ) -> None:
        self.host = host
        self.welcome: Welcome | None = None
        self.deadline: float | None = time.monotonic() + timeout_s
        """When (monotonic) to call `receive` whether or not something has arrived: it gives up then, or raises what it
        has held back. None: neither is to come; the agent has said welcome."""
        self.heard_at = time.monotonic()
        """When (monotonic) bytes from the host were last read, of whole messages or not; at first, when it began."""
        self._transport = transport
        self._timeout_s = timeout_s
        self._handshake = Handshake(bundle, python, cache, minimum_python)
        self._state = _State.SHAKING_HANDS
        self._farewell = False
        self._broken = False
        self._held_back: HostError | None = None
        self._silent_until = 0.0
        self._decoder = Decoder()
        self._held: list[Message] = []
        self._outgoing: deque[memoryview] = deque()
        self._stderr = b""
        self._stderr_line = b""
        self._start(() if inherits is None else (inherits,))

    @property
    def ended(self) -> bool:
        """The stream has reached its end: nothing of ours is left on the host."""
        return self._state is _State.ENDED

    @property
    def pid(self) -> int:
        """The process of the connection, on this machine."""
        return self._process.pid

    @property
    def is_low(self) -> bool:
        """Whether little waits to be written, or nothing ever will."""
        return sum(map(len, self._outgoing)) < LOW_BYTES

    def interest(self) -> dict[int, int]:
        """The descriptors to watch, each with a mask of `selectors.EVENT_READ` and `EVENT_WRITE`."""
        if self._is_silent:
            return {}
        wanted = {fd: selectors.EVENT_READ for fd in (self._output_fd, self._stderr_fd) if fd >= 0}
        if self._outgoing and self._input_fd >= 0:
            wanted[self._input_fd] = selectors.EVENT_WRITE
        return wanted

    def silence(self, until: float) -> None:
        """As if the network between were gone: until then (monotonic) nothing is read or written."""
        self._silent_until = until

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() < self._silent_until

    def send(self, message: Message) -> None:
        """Send as soon as may be. What the agent no longer reads is dropped: its end is told by `receive`.

        After a Goodbye, that the agent ends is no error.
        """
        self._farewell = self._farewell or isinstance(message, Goodbye)
        if self._state is _State.SHAKING_HANDS:
            self._held.append(message)
        elif self._state is _State.OPEN:
            self._queue(encode(message))
            self._flush()

    def receive(self) -> list[Message]:
        """The messages that have arrived, after writing what the connection takes. May be called at any time.

        An error never takes with it what arrived before: that is returned first, and `deadline` has then come.

        Raises:
            HostError: the agent could not be started, did not answer in time, or ended before goodbye.
        """
        if self._held_back is not None:
            error, self._held_back, self.deadline = self._held_back, None, None
            raise error
        messages: list[Message] = []
        try:
            self._exchange(messages)
        except HostError as error:
            if not messages:
                raise
            self._held_back, self.deadline = error, time.monotonic()
        return messages

    def _exchange(self, messages: list[Message]) -> None:
        """Write and read what can be without waiting; what arrives is added to `messages`, also before an error."""
        self._flush()
        reads = 0 if self._is_silent else _READS_PER_CALL
        if reads:
            self._read_stderr(messages)
        try:
            for _ in range(reads):
                if not self._read_output(messages):
                    break
        except WireError as error:
            raise self._failure(f"the agent's stream is broken: {error}; does something else print there?") from error
        if self.deadline is not None and time.monotonic() >= self.deadline:
            what = f"no answer within {self._timeout_s:g} s"
            raise self._failure(f"{what}; check that it is reachable and not overloaded", self._explanation(what=what))

    def hang_up(self) -> None:
        """Write no more: the agent ends everything, in its own time. Reading may go on until `ended`."""
        self._farewell = True
        self.deadline = None
        self._close_input()

    def close(self, timeout_s: float = 0.0) -> None:
        """Like `close_all`, for this one."""
        close_all((self,), timeout_s)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code of the connection's process, negative for a signal; None: it has not ended in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def _start(self, inherited: tuple[int, ...]) -> None:
        command = self._transport.command(self._handshake.argv)
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C is for the launcher, which tells the agents
            )
        except OSError as error:
            raise HostError(f"{self.host}: {command[0]} cannot be started: {error.strerror}") from error
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._input_fd, self._output_fd, self._stderr_fd = (
            _own(pipe.fileno()) for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            pipe.close()

    def _flush(self) -> None:
        """Write what the connection takes now."""
        while self._outgoing and self._input_fd >= 0 and not self._is_silent:
            try:
                sent = os.write(self._input_fd, self._outgoing[0])
            except BlockingIOError:
                return
            except OSError:
                self._close_input()
                return
            rest = self._outgoing.popleft()[sent:]
            if rest:
                self._outgoing.appendleft(rest)

    def _queue(self, data: bytes) -> None:
        if data and self._input_fd >= 0:
            self._outgoing.append(memoryview(data))

    def _read_output(self, messages: list[Message]) -> bool:
        """Take one read's worth. False: there is nothing more for now."""
        if self._output_fd < 0:
            return False
        try:
            data = os.read(self._output_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._reached_end(messages)
            return False
        self.heard_at = time.monotonic()
        if self._state is _State.SHAKING_HANDS:
            data = self._shake_hands(data)
        if self._state is _State.OPEN:
            for message in self._decoder.feed(data):
                if isinstance(message, Welcome):
                    self._read_stderr(messages)
                    self._stderr = b""  # a login's greeting
                    self.welcome = message
                    self.deadline = None
                messages.append(message)
        return True

    def _shake_hands(self, data: bytes) -> bytes:
        """Go on with the handshake. Returns what comes after it."""
        try:
            answer, rest = self._handshake.feed(data)
        except Refusal as refusal:
            raise self._failure(str(refusal), str(refusal)) from None
        self._queue(answer)
        if answer:
            self.deadline = time.monotonic() + self._timeout_s  # it answers, and what it gets takes its time
        if self._handshake.is_done:
            self._state = _State.OPEN
            for message in self._held:
                self._queue(encode(message))
        self._flush()
        return rest

    def _read_stderr(self, messages: list[Message]) -> None:
        """Keep the end of it for an error's sake, and tell it as notes once the agent has said welcome."""
        for _ in range(_READS_PER_CALL):
            if self._stderr_fd < 0:
                return
            try:
                data = os.read(self._stderr_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                os.close(self._stderr_fd)
                self._stderr_fd = -1
                data = b"\n" if self._stderr_line else b""
            self._stderr = (self._stderr + data)[-_STDERR_TAIL_BYTES:]
            if self.welcome is not None:
                *lines, self._stderr_line = (self._stderr_line + data).split(b"\n")
                self._stderr_line = self._stderr_line[-_STDERR_TAIL_BYTES:]
                messages += [AgentNote("warning", line.decode(errors="replace")) for line in lines if line.strip()]

    def _reached_end(self, messages: list[Message]) -> None:
        self._read_stderr(messages)
        if not self._farewell:
            what = "the agent could not be started" if self.welcome is None else "the agent ended unexpectedly"
            exit_code = self.wait(_EXIT_STATUS_WAIT_S)  # all its descriptors are closed: it is ending
            raise self._failure(what + _ending(exit_code), self._explanation(exit_code))
        self._end()

    def _end(self) -> None:
        self._state = _State.ENDED
        self._close_input()
        for fd in (self._output_fd, self._stderr_fd):
            if fd >= 0:
                os.close(fd)
        self._output_fd = self._stderr_fd = -1

    def _terminate(self) -> None:
        """End the process of the connection, and whatever we wait for."""
        self._end()
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)  # one that is stopped would not notice before

    def _close_input(self) -> None:
        if self._input_fd >= 0:
            os.close(self._input_fd)
            self._input_fd = -1
            self._outgoing.clear()

    def _explanation(self, exit_code: int | None = None, *, what: str = "") -> str | None:
        """What the transport knows about a connection that has ended, or has not answered: `what`."""
        self._read_stderr([])
        stderr = self._stderr.decode(errors="replace")
        stdout = None if self.welcome is not None else self._handshake.noise.decode(errors="replace")
        known = self._transport.explain(self._handshake.argv, exit_code, stderr, stdout)
        return f"{what}; {known}" if known and what else known

    def _failure(self, what: str, known: str | None = None) -> HostError:
        """The error that names the host. Without a sentence that is `known` to tell it all, what was printed tells the
        rest. Hangs up."""
        self._broken = True
        self._read_stderr([])
        self.hang_up()
        self._end()
        if known is not None:
            return HostError(f"{self.host}: {known}")
        printed = (self._stderr or self._handshake.noise).decode(errors="replace").strip()
        return HostError(f"{self.host}: {what}" + (f"\n{printed}" if printed else ""))


def close_all(links: Sequence[AgentLink], timeout_s: float = 0.0) -> tuple[AgentLink, ...]:
    """Say goodbye and hang up, and wait at most so long, for all together, until nothing is left on the hosts. What is
    read meanwhile is dropped. An agent that has not said welcome is not waited for.

    After that time the connections themselves are ended; the agents and their guards go on ending what they started.
    Returns those whose agents had said welcome, and not that they are gone.
    """
    for link in links:
        link.send(Goodbye())
        link.hang_up()
        if link.welcome is None:
            link._terminate()
    _drain(links, time.monotonic() + timeout_s)
    unheard = tuple(link for link in links if link.welcome is not None and not link.ended)
    for link in links:
        if not link.ended or link._broken:
            link._terminate()
    # On this machine the connection's process is the guard itself. It obeys, and is the last to end.
    left = [link for link in _not_exited(links, _EXIT_STATUS_WAIT_S) if link.host != LOCAL.name]
    for link in left:
        link._process.kill()
    _not_exited(left, _KILLED_WAIT_S)
    return unheard


def _drain(links: Sequence[AgentLink], deadline: float) -> None:
    """Read, and drop, what these send until they have ended. Nothing more is written to them."""
    while (left_s := deadline - time.monotonic()) > 0:
        sources = {fd: link for link in links for fd in link.interest()}
        if not sources:
            return
        poll = select.poll()
        for fd in sources:
            poll.register(fd, select.POLLIN)
        for link in {sources[fd] for fd, _ in poll.poll(left_s * 1000)}:
            with contextlib.suppress(HostError):
                link.receive()


def _not_exited(links: Sequence[AgentLink], timeout_s: float) -> list[AgentLink]:
    """Those whose processes do not end in that time, which is for all together. The others are reaped."""
    deadline = time.monotonic() + timeout_s
    return [link for link in links if link.wait(max(0.0, deadline - time.monotonic())) is None]


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    number = -exit_code if exit_code < 0 else exit_code - 128  # the guard ends with 128 and the signal of the agent
    with contextlib.suppress(ValueError):
        return f" (killed by {signal.Signals(number).name})"
    return f" (exit code {exit_code})"


def _own(fd: int) -> int:
    """A non-blocking copy of a pipe's descriptor, with a large buffer where the system allows it."""
    copy = os.dup(fd)
    os.set_blocking(copy, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(copy, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return copy
