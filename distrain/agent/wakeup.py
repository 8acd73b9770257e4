"""Signals as something to select on: owns the signal handlers of the guard and of the agent."""

from __future__ import annotations

import os
import signal

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Those that ask a process to end."""


class Wakeup:
    """`fd` becomes readable when one of our signals came; `take` says which."""

    def __init__(self) -> None:
        self.fd, write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *ENDING):
            signal.signal(number, lambda *_: None)

    def take(self) -> set[int]:
        try:
            return set(os.read(self.fd, 65536))
        except BlockingIOError:
            return set()
