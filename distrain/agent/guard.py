"""The guard: the agent's parent, which outlives it and ends whatever it leaves behind.

Owns the fork into guard and agent, and the promise that nothing of ours is left on the host when the guard ends. It
keeps the connection's descriptors open, so the launcher sees the end of the stream only when the host is clean. It
does nothing else, and has no reason to fail.

- The agent ends, by kill -9 too: the guard inherits its processes and kills them.
- The guard is killed: the agent sees the end of a pipe, and ends everything itself.
- Both are killed at once: the parent-death signal ends the tasks, though not the tasks' own children.
- The connection is lost and the agent does not end (it is stopped, or hangs): the guard kills it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import NoReturn

from distrain.agent import processes
from distrain.agent.wakeup import ENDING, Wakeup

LOST_CONNECTION_S = 30.0
"""How long the agent may take to end after the connection was lost: longer than its own deadlines together."""


def run(tree: str, removed_at_end: str | None) -> NoReturn:
    """Become guard and agent. `tree` holds distrain's code; `removed_at_end` is a folder, gone when we are."""
    processes.adopt_orphans()
    alive_fd, alive_held_by_guard = os.pipe()
    guard = os.getpid()
    agent = os.fork()
    if agent == 0:
        os.close(alive_held_by_guard)
        _become_agent(tree, alive_fd, guard)
    os.close(alive_fd)
    processes.name_this_process("distrain-guard")
    exit_code = _watch(agent)
    processes.end_all_below()
    if removed_at_end is not None:
        import shutil

        shutil.rmtree(removed_at_end, ignore_errors=True)
    os._exit(exit_code)


def _become_agent(tree: str, alive_fd: int, guard: int) -> NoReturn:
    exit_code = 70
    try:
        os.setsid()  # a signal to the guard's process group must not end both
        processes.name_this_process("distrain-agent")
        processes.adopt_orphans()
        from distrain.agent.main import main

        exit_code = main(tree, alive_fd, guard)
    except BaseException:  # noqa: BLE001  (the process ends here, whatever happened)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(exit_code)


def _watch(agent: int) -> int:
    """Wait until the agent is gone; its exit code, or 128 and the signal that ended it."""
    wakeup = Wakeup()
    poll = select.poll()
    poll.register(wakeup.fd, select.POLLIN)
    poll.register(0, select.POLLRDHUP)
    kill_at = None
    while True:
        pid, status = os.waitpid(agent, os.WNOHANG)
        if pid == agent:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        timeout_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready = dict(poll.poll(None if timeout_s is None else timeout_s * 1000))
        if 0 in ready:
            poll.unregister(0)
            kill_at = time.monotonic() + LOST_CONNECTION_S
        for number in wakeup.take() & ENDING:
            os.kill(agent, number)
        if kill_at is not None and time.monotonic() >= kill_at:
            os.kill(agent, signal.SIGKILL)
            kill_at = None
