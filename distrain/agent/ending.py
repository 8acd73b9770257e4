"""How an agent comes to its end: who asked for it, what that means, and by when it is over. Pure.

SIGTERM from outside means that the host is to be left, as a cloud or a scheduler takes it back: the tasks have time to
leave what another attempt can go on from. Whoever shuts a host down signals everything on it at once. So the guard, to
whom it comes too, passes on an echo; the end of a login session adds SIGHUP; and the ssh server may go first, whose end
looks as if the launcher had gone. None of them cuts that time short. Goodbye, SIGINT and a later SIGTERM do.
"""

from __future__ import annotations

import enum
import math
import signal
from collections.abc import Set

PREEMPTION_GRACE_S = 25.0
"""Between TERM and KILL when the host is to be left: less than what clouds grant, and than the guard's patience."""
END_GRACE_S = 5.0
"""Between TERM and KILL when everything ends for another reason."""
KILL_TIMEOUT_S = 10.0
"""After this long a killed process that is still there is stuck in the kernel: it is left to the guard."""
ECHO_S = 2.0
"""Another SIGTERM within this time is the same one."""


class Asked(enum.Enum):
    TO_LEAVE = enum.auto()
    TO_END = enum.auto()


class Ending:
    """Times are monotonic. `by`: when tasks are given up that are still there; None: the end has not begun."""

    def __init__(self) -> None:
        self.by: float | None = None
        self.is_preempted = False
        self._asked_to_end = False
        self._term_at = -math.inf

    @property
    def has_begun(self) -> bool:
        return self.by is not None

    @property
    def is_final(self) -> bool:
        """Whether nothing can give the tasks more time."""
        return self._asked_to_end or self.is_preempted

    def heed(self, numbers: Set[int], now: float) -> Asked | None:
        """What these signals, which came together, ask for."""
        if signal.SIGTERM in numbers:
            is_echo = now - self._term_at < ECHO_S
            self._term_at = now if not is_echo else self._term_at
            if not is_echo:
                return Asked.TO_END if self.is_final else Asked.TO_LEAVE
        if signal.SIGINT in numbers or (signal.SIGHUP in numbers and not self.is_preempted):
            return Asked.TO_END
        return None

    def leave(self, now: float) -> None:
        """The host is to be left."""
        self.is_preempted = True
        self.by = now + PREEMPTION_GRACE_S + KILL_TIMEOUT_S

    def end(self, now: float, *, asked: bool) -> None:
        """Everything is to end. `asked`: by somebody, and not because the launcher is gone."""
        self._asked_to_end = self._asked_to_end or asked
        by = now + END_GRACE_S + KILL_TIMEOUT_S
        self.by = by if self.by is None else min(self.by, by)
