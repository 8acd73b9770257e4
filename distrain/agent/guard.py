"""The guard: the agent's parent, which outlives it and ends whatever it leaves behind.

Owns the fork into guard and agent, and the promise that nothing of ours is left on the host when the guard ends. It
keeps the connection's descriptors open, so the launcher sees the end of the stream only when the host is clean. It
does nothing else, and has no reason to fail.

- The agent ends, by kill -9 too: the guard inherits its processes and kills them.
- The guard is killed: the agent sees the end of a pipe, and ends everything itself.
- Both are killed at once: the parent-death signal ends the tasks, though not the tasks' own children.
- The connection is lost and the agent does not end (it is stopped, or hangs): the guard kills it.
- The agent of a host far away says nothing of itself for longer than its launcher would wait: the guard kills it too.
  Where a network is cut, the connection may seem open for hours.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from distrain.agent import processes
from distrain.agent.lifeline import AgentsEnd, GuardsEnd
from distrain.agent.wakeup import ENDING, Wakeup
from distrain.contact import Contact

LOST_CONNECTION_S = 30.0
"""How long the agent may take to end after the connection was lost: longer than its own deadlines together."""


def run(tree: str, cache: str | None, removed_at_end: str | None) -> NoReturn:
    """Become guard and agent. `tree` holds distrain's code, and `cache` the trees of all versions, if there is one.

    `removed_at_end` is a folder, gone when we are.
    """
    processes.adopt_orphans()
    ours, theirs = socket.socketpair()
    agent = os.fork()
    if agent == 0:
        ours.close()
        _become_agent(tree, cache, theirs)
    theirs.close()
    processes.name_this_process("distrain-guard")
    guard = _Guard(agent, ours)
    if removed_at_end is not None:
        guard.removed.append(removed_at_end)
    exit_code = guard.watch()
    processes.end_all_below()
    for path in guard.removed:
        from distrain import arrival

        arrival.discard(path)
    os._exit(exit_code)


def _become_agent(tree: str, cache: str | None, line: socket.socket) -> NoReturn:
    exit_code = 70
    try:
        os.setsid()  # a signal to the guard's process group must not end both
        processes.name_this_process("distrain-agent")
        processes.adopt_orphans()
        from distrain.agent.main import main

        exit_code = main(tree, cache, AgentsEnd(line))
    except BaseException:  # noqa: BLE001  (the process ends here, whatever happened)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(exit_code)


class _Guard:
    def __init__(self, agent: int, line: socket.socket) -> None:
        self.removed: list[str] = []
        self._agent = agent
        self._line = GuardsEnd(line)
        self._contact: Contact | None = None
        self._kill_at = math.inf

    def watch(self) -> int:
        """Wait until the agent is gone; its exit code, or 128 and the signal that ended it."""
        wakeup = Wakeup()
        poll = select.poll()
        poll.register(wakeup.fd, select.POLLIN)
        poll.register(self._line.fd, select.POLLIN)
        poll.register(0, select.POLLRDHUP)
        while True:
            pid, status = os.waitpid(self._agent, os.WNOHANG)
            if pid == self._agent:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            due = min(self._kill_at, self._contact.due if self._contact is not None else math.inf)
            ready = dict(poll.poll(None if due == math.inf else max(0.0, due - time.monotonic()) * 1000))
            if self._line.fd in ready:
                self._listen()
                if not self._line.is_open:
                    poll.unregister(self._line.fd)
            if 0 in ready:
                poll.unregister(0)
                self._kill_at = time.monotonic() + LOST_CONNECTION_S
            for number in sorted(wakeup.take() & ENDING, reverse=True):  # TERM first: it gives the most time
                os.kill(self._agent, number)
            self._judge()

    def _listen(self) -> None:
        """The agent has said something, so it is not stuck."""
        if self._contact is not None:
            self._contact.heard()
        for charge in self._line.take():
            self.removed.append(charge.folder)
            self._contact = Contact(charge.silence_s)

    def _judge(self) -> None:
        silent = self._contact is not None and self._contact.look()
        if silent or time.monotonic() >= self._kill_at:
            os.kill(self._agent, signal.SIGKILL)
            self._kill_at, self._contact = math.inf, None
