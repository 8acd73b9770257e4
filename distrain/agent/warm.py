"""The agent's end of the preload process, which imports TensorFlow once and forks a task per request.

The process is `[python, "-m", "distrain.worker.preload"]`, started with distrain's code as its working directory and
first on PYTHONPATH. What is said to it and answered is described in `wire`. Until its import is done requests wait
here, and can simply be withdrawn.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distrain.agent import spawn
from distrain.agent.streams import Pipe
from distrain.wire import EVENTS_FD, FORK, PRELOAD_FD_VARIABLE, PRELOAD_GONE, Preload

_MAX_ANSWER_BYTES = 1 << 20
_TRANSCRIPT_BYTES = 256 * 1024


@dataclass(frozen=True)
class Request:
    """A task to fork. `key` names it in the answer; the descriptors stay the caller's."""

    key: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stdin: int
    output: int
    events: int
    stacks: int


@dataclass(frozen=True)
class Forked:
    key: str
    pid: int


@dataclass(frozen=True)
class NotForked:
    key: str
    reason: str


@dataclass
class Preloaded:
    """One preload process. `environment` is the whole of its environment, `tree` the folder of distrain's code.

    `printed` is told what it prints, with the keys of those that wait for its import.
    """

    order: Preload
    environment: Mapping[str, str]
    tree: str
    printed: Callable[[bytes, tuple[str, ...]], None]
    pid: int | None = field(default=None, init=False)
    is_open: bool = field(default=True, init=False)
    ready: bool = field(default=False, init=False)
    failed: str | None = field(default=None, init=False)
    has_forked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Start it.

        Raises:
            OSError: there cannot be another process now.
        """
        self.transcript = bytearray()
        self._waiting: dict[str, Request] = {}
        self._asked: list[str] = []
        self.report_fd = -1
        self.pipe = Pipe(self._print)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            self.pid, self.report_fd = spawn.start(
                self._argv,
                {**self.environment, PRELOAD_FD_VARIABLE: str(EVENTS_FD)},
                self.tree,
                stdin=nothing,
                output=self.pipe.write_fd,
                events=theirs.fileno(),
                stacks=nothing,
            )
        except OSError:
            self.close()
            raise
        finally:
            os.close(nothing)
            theirs.close()
            self.pipe.give_away()

    @property
    def _argv(self) -> list[str]:
        return [self.order.python, "-m", "distrain.worker.preload"]

    def ask(self, request: Request) -> None:
        """Have a task forked as soon as the import is done."""
        self._waiting[request.key] = request
        if self.ready:
            self._send_waiting()

    def withdraw(self, key: str) -> bool:
        """Take a request back. False: too late, it is being forked."""
        return self._waiting.pop(key, None) is not None

    @property
    def is_forking(self) -> bool:
        """Whether a child that we do not know yet may be on its way to us."""
        return bool(self._asked)

    def started(self) -> None:
        """The process has reported: either it runs, or it never will."""
        refusal = spawn.read_report(self.report_fd, self._argv, self.tree)
        self.report_fd = -1
        if refusal is not None:
            self.failed = refusal.message

    def answers(self) -> Iterator[Forked | NotForked]:
        """What the process has answered by now. Look at `failed` afterwards."""
        while self.failed is None:
            try:
                packet = self.socket.recv(_MAX_ANSWER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if packet:
                yield from self._answer(json.loads(packet))
            elif self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)  # it is ending, or of no use any more
                self._ended(os.waitpid(self.pid, 0)[1])

    def reap(self) -> None:
        """Notice if the process has ended."""
        if self.pid is not None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)

    def close(self, reason: str | None = None) -> list[NotForked]:
        """End the process, which has no state to lose; it stays to be reaped, as any child.

        Returns the requests that are left open, with how the process failed, or else `reason`, as theirs.
        """
        self.is_open = False
        self.failed = self.failed or reason
        self.pipe.close()
        self.socket.close()
        if self.report_fd >= 0:
            os.close(self.report_fd)
            self.report_fd = -1
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.pid = None
        what = PRELOAD_GONE if self.ready else "TensorFlow could not be imported"
        left = [NotForked(key, f"{what}: {self.failed}") for key in (*self._asked, *self._waiting)]
        self._asked.clear()
        self._waiting.clear()
        return left

    def _ended(self, status: int) -> None:
        self.pid = None
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        self.failed = self.failed or f"its process {how}"

    def _answer(self, answer: Mapping[str, Any]) -> Iterator[Forked | NotForked]:
        if "preloaded" in answer:
            self.pipe.drain()  # what it printed until now belongs to the import
            self.ready = True
            self._send_waiting()
        elif "preload_error" in answer:
            self.failed = str(answer["preload_error"])
        else:
            self._asked.remove(answer["task"])
            if "pid" in answer:
                self.has_forked = True
                yield Forked(answer["task"], answer["pid"])
            else:
                yield NotForked(answer["task"], str(answer["error"]))
            self._send_waiting()

    def _send_waiting(self) -> None:
        for key, request in list(self._waiting.items()):
            asked = {"task": key, "env": dict(request.env), "cwd": request.cwd, "argv": request.argv}
            text = json.dumps(asked).encode()
            fd = spawn.file_of(text)
            try:
                descriptors = [fd, request.stdin, request.output, request.events, request.stacks]
                socket.send_fds(self.socket, [FORK], descriptors)
            except BlockingIOError:  # it has enough to do: the next answer brings us back here
                return
            except OSError:  # it is gone: its end will be noticed, and tells of this request too
                return
            finally:
                os.close(fd)
            del self._waiting[key]
            self._asked.append(key)

    def _print(self, data: bytes) -> None:
        if self.ready:
            self.printed(data, ())
            return
        if len(self.transcript) < _TRANSCRIPT_BYTES:
            self.transcript += data
        self.printed(data, tuple(self._waiting))
