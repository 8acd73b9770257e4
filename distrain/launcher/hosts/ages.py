"""How long ago something happened on a host, by that host's clock, which may be any and may be set meanwhile."""

from __future__ import annotations

from collections import deque

WINDOW_S = 120.0
"""A clock that was set back is believed again after so long."""


class Ages:
    """Of what hosts tell, each with the time that its clock showed. The least that a message has seemed to take of late
    is taken for none.
    """

    def __init__(self) -> None:
        self._lags: dict[str, deque[tuple[float, float]]] = {}
        """By host: when a message arrived, and what it has seemed to take. Each is less than all that came after it."""

    def of(self, host: str, at: float, told_at: float) -> float:
        """The age in seconds of what arrived at `at` by our clock, and was told at `told_at` by the host's."""
        lag_s = at - told_at
        lags = self._lags.setdefault(host, deque())
        while lags and lags[-1][1] >= lag_s:
            lags.pop()
        lags.append((at, lag_s))
        while lags[0][0] < at - WINDOW_S:
            lags.popleft()
        return lag_s - lags[0][1]
