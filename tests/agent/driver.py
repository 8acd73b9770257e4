"""Drives one real agent, as the launcher does, and looks at what it leaves in the process table."""

from __future__ import annotations

import hashlib
import os
import select
import selectors
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from process_table import MARK, Process, marked, wait_until

from distrain.job.cluster import LOCAL
from distrain.launcher.hosts.bundle import Bundle, open_bundle
from distrain.launcher.hosts.link import AgentLink
from distrain.launcher.transports import open_transport
from distrain.wire import (
    CodePart,
    CodeWanted,
    Message,
    OpenRun,
    RunOpened,
    StartTask,
    TaskCleared,
    TaskExited,
    TaskOutput,
    TaskStarted,
    Welcome,
)

PYTHON = [sys.executable, "-S", "-c"]
DEADLINE_S = 30.0
M = TypeVar("M", bound=Message)


class Host:
    """An agent with a connection to it. Whatever it starts carries a mark in its environment."""

    def __init__(self, cache: Path, *, bundle: Bundle | None = None, python: str = sys.executable) -> None:
        self.mark = uuid.uuid4().hex
        self.heard: list[Message] = []
        os.environ[MARK] = self.mark
        try:
            self.link = AgentLink(
                "local", open_transport(LOCAL), bundle or open_bundle(), python=python, cache=str(cache)
            )
        finally:
            del os.environ[MARK]
        self.welcome = self.wait_for(Welcome)

    @property
    def guard_pid(self) -> int:
        return self.link.pid

    @property
    def agent_pid(self) -> int:
        return self.welcome.pid

    def open_run(self, code: bytes = b"", *, run: str = "mnist", contact_timeout_s: float = 60.0) -> RunOpened:
        """Open a run, sending `code` if it is asked for."""
        digest = hashlib.sha256(code).hexdigest() if code else ""
        self.link.send(OpenRun(run, contact_timeout_s, digest, len(code)))
        self.until(lambda: self.all(RunOpened) or self.all(CodeWanted), "an answer to OpenRun")
        if self.all(CodeWanted):
            for start in range(0, len(code), 1 << 20):
                self.link.send(CodePart(code[start : start + (1 << 20)]))
        return self.wait_for(RunOpened)

    def start(
        self,
        argv: Sequence[str],
        *,
        task: str = "worker:0",
        attempt: int = 1,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        warm: bool = False,
        stdin: bytes = b"",
    ) -> None:
        self.link.send(StartTask(task, attempt, tuple(argv), env or {}, cwd, warm, stdin))

    def run(self, code: str, **options: object) -> TaskStarted:
        """Start a task that runs this Python program, and wait until it runs."""
        self.start([*PYTHON, code], **options)  # type: ignore[arg-type]
        return self.wait_for(TaskStarted, task=options.get("task", "worker:0"))

    def pump(self, timeout_s: float) -> None:
        """Take what arrives; come back at once when something has."""
        poll = select.poll()
        for fd, mask in self.link.interest().items():
            poll.register(fd, select.POLLOUT if mask == selectors.EVENT_WRITE else select.POLLIN)
        poll.poll(timeout_s * 1000)
        self.heard += self.link.receive()

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{what}: not within {timeout_s:g} s; heard {self.heard[-20:]}"
            self.pump(min(left_s, 0.05))

    def wait_for(self, message_type: type[M], /, timeout_s: float = DEADLINE_S, **values: object) -> M:
        """The first message of this kind with these values, already heard or to come."""
        found: list[M] = []

        def look() -> bool:
            found[:] = [message for message in self.all(message_type) if _has(message, values)]
            return bool(found)

        self.until(look, f"{message_type.__name__} with {values}", timeout_s)
        return found[0]

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]

    def exited(self, task: str = "worker:0", **values: object) -> TaskExited:
        return self.wait_for(TaskExited, task=task, **values)

    def cleared(self, task: str = "worker:0", **values: object) -> TaskCleared:
        return self.wait_for(TaskCleared, task=task, **values)

    def output(self, task: str = "worker:0") -> bytes:
        return b"".join(message.data for message in self.all(TaskOutput) if message.task == task)

    def until_output(self, text: bytes, task: str = "worker:0") -> None:
        self.until(lambda: text in self.output(task), f"{text!r} in the output")

    def processes(self) -> list[Process]:
        return marked(self.mark)

    def nothing_left(self, timeout_s: float = 15.0) -> float:
        """Wait until no marked process is left; for how many seconds."""
        return wait_until(lambda: not self.processes(), timeout_s, f"no process of this host: {self.processes()}")

    def end(self) -> None:
        """Hang up and see that nothing is left. What is left all the same is killed, so that no test harms another."""
        try:
            self.link.close(timeout_s=15.0)
            self.nothing_left()
        finally:
            for process in self.processes():
                os.kill(process.pid, signal.SIGKILL)
            self.link.wait(5.0)


def _has(message: Message, values: Mapping[str, object]) -> bool:
    return all(getattr(message, name) == value for name, value in values.items())
