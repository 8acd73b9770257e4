"""How long nothing has been heard of the other side, for launcher and agent alike. Owns what counts as silence."""

from __future__ import annotations

import time

_LOOKS_PER_TIMEOUT = 8


class Contact:
    """Lost when nothing was heard for `timeout_s` of the time in which this process could have heard it.

    A process that was stopped, or whose machine was frozen, comes back long after `due`. Of its absence one interval
    counts and no more, so that it reads what has arrived meanwhile before it judges.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._silent_s = 0.0
        self._looked_at = time.monotonic()

    @property
    def due(self) -> float:
        """When (monotonic) to call `look` next."""
        return self._looked_at + self.timeout_s / _LOOKS_PER_TIMEOUT

    def heard(self) -> None:
        self._silent_s = 0.0
        self._looked_at = time.monotonic()

    def look(self) -> bool:
        """Whether contact is lost."""
        now = time.monotonic()
        self._silent_s += min(now - self._looked_at, self.timeout_s / _LOOKS_PER_TIMEOUT)
        self._looked_at = now
        return self._silent_s >= self.timeout_s
