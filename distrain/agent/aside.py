"""Work that may wait, done in a forked child, so that the agent's loop never does.

The child is a fork of the agent, which has one thread. It shares no descriptor with it but the standard ones, dies
with it, and is reaped and ended like anything else below the agent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from distrain.agent import processes
from distrain.agent.wakeup import ENDING

_LARGEST_FD = 1 << 20
_READ_BYTES = 65536


class Asides:
    """What is being done aside."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[bytearray, Callable[[Any], None]]] = {}

    def run(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have `work` done, and `then` called with what it returns, as JSON carries it.

        With None, if the child could not be started, was killed, or raised an exception, which it has then printed.
        """
        agent = os.getpid()
        fd, write_fd = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(fd)
            os.close(write_fd)
            then(None)
            return
        if pid == 0:
            _do(work, write_fd, agent)
        os.close(write_fd)
        # Until it has let go of our descriptors it would look like a process of the task whose pipes those are.
        os.read(fd, 1)
        self._open[fd] = bytearray(), then

    def sources(self) -> Iterator[tuple[int, Callable[[], object]]]:
        """What to wait for: descriptors that become readable, and what to call then."""
        for fd in self._open:
            yield fd, partial(self._read, fd)

    def _read(self, fd: int) -> None:
        held, then = self._open[fd]
        data = os.read(fd, _READ_BYTES)
        if data:
            held += data
            return
        os.close(fd)
        del self._open[fd]
        try:
            result = json.loads(held)
        except ValueError:
            result = None
        then(result)


def _do(work: Callable[[], Any], write_fd: int, agent: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *ENDING):
            signal.signal(number, signal.SIG_DFL)
        processes.die_with_parent(agent)
        processes.name_this_process("distrain-aside")
        os.closerange(3, write_fd)
        os.closerange(write_fd + 1, _LARGEST_FD)
        os.write(write_fd, b".")
        rest = memoryview(json.dumps(work()).encode())
        while rest:
            rest = rest[os.write(write_fd, rest) :]
    except BaseException:  # noqa: BLE001  (the process ends here, whatever happened)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)
