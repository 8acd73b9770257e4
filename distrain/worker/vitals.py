"""How others see from outside that a task lives, and how it hears that it should leave. Standard library only.

Owns the pulse, the notice that SIGTERM is, and the answer to SIGUSR2, which is every thread's Python stack. All three
work while the main thread is deep in TensorFlow's C++, where Python's own signal handlers wait for its return. What
comes of a notice is the training loop's to decide.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator

from distrain.wire import STACKS_FD_VARIABLE
from distrain.worker.telemetry import Events

PULSE_INTERVAL_S = 1.0
SAME_NOTICE_S = 1.0
"""One wish that a task should leave may come as several signals, from a batch system and from the agent; a later one
is meant.
"""


class Preempted(Exception):
    """The task was asked to leave and has left what a restart needs, after `step` steps."""

    def __init__(self, step: int) -> None:
        super().__init__(f"asked to leave after step {step}")
        self.step = step


class Vitals:
    """Sends a `pulse` every second, from now on and until the process ends, where somebody hears `events`.

    `step`, how many steps are done, is for the main thread to set. `asked_to_leave`: see `watch`.
    """

    def __init__(self, events: Events) -> None:
        self.step = 0
        self.asked_to_leave = False
        self._events = events
        self._now = ("python", time.monotonic())  # one value, so that no pulse sees half of a change
        self._stacks: int | None = None
        if events.are_heard:
            threading.Thread(target=self._pulse, name="pulse", daemon=True).start()

    @contextlib.contextmanager
    def within(self, doing: str) -> Iterator[None]:
        """What the main thread does meanwhile: "step", in a call of the strategy's, or "serving". Else it is
        "python": callbacks and other code of the user's.
        """
        outer, _ = self._now
        self._now = (doing, time.monotonic())
        try:
            yield
        finally:
            self._now = (outer, time.monotonic())

    def stacks(self) -> None:
        """From now on, SIGUSR2 writes the Python stacks of all threads to the file that the agent gave, if it did.
        Programs that this process starts inherit nothing of it.
        """
        text = os.environ.pop(STACKS_FD_VARIABLE, "")
        if not text.isdigit():
            return
        with contextlib.suppress(OSError):
            os.set_inheritable(int(text), False)
            self._others = signal.getsignal(signal.SIGUSR2)
            faulthandler.register(signal.SIGUSR2, file=int(text), all_threads=True)
            os.write(int(text), b"\n")  # where nothing stands, the agent does not signal: it would end the process
            self._stacks = int(text)

    def watch(self) -> None:
        """From now on, SIGTERM sets `asked_to_leave`, whatever the main thread is in; another one that comes later
        ends the process as it would have without us. Called in the main thread, after whatever else catches signals.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # Without a handler of Python's nothing would be written. This one runs late, when the main thread is back.
        signal.signal(signal.SIGTERM, lambda *_: None)
        # In a child that a library forks, a signal is no notice to us, and ends it: also one that is there at once.
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]),
            after_in_child=_unwatch,
        )
        threading.Thread(target=self._listen, args=(reader,), name="notices", daemon=True).start()

    def _listen(self, reader: int) -> None:
        asked_at = 0.0
        while numbers := os.read(reader, 1):
            if numbers[0] != signal.SIGTERM:
                continue
            if not self.asked_to_leave:
                self.asked_to_leave, asked_at = True, time.monotonic()
            elif time.monotonic() - asked_at > SAME_NOTICE_S:
                # Python lets the main thread alone change what a signal does, and that one may be stuck.
                ctypes.CDLL(None).signal(signal.SIGTERM, None)
                os.kill(os.getpid(), signal.SIGTERM)

    def _pulse(self) -> None:
        while True:
            time.sleep(PULSE_INTERVAL_S)
            if self._stacks is not None and signal.getsignal(signal.SIGUSR2) is not self._others:
                # The user's code has a use of its own for the signal: as long as nothing stands there, none comes.
                os.ftruncate(self._stacks, 0)
                self._stacks = None
            doing, since = self._now
            self._events.send("pulse", step=self.step, doing=doing, for_s=round(time.monotonic() - since, 3))


def _unwatch() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
