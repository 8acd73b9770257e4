"""The line between the guard and its agent: each sees when the other is gone, and the agent says what matters then.

Owns what is said on it: lines, each empty (the agent's loop still turns) or a JSON object, a `Charge`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

_BEAT_INTERVAL_S = 0.25
_READ_BYTES = 65536


@dataclass(frozen=True)
class Charge:
    """What the agent leaves to the guard: to remove `folder`, and to end an agent that says nothing for so long."""

    folder: str
    silence_s: float


class AgentsEnd:
    """`fd` becomes readable when the guard is gone."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._beat_at = 0.0
        self.fd = line.fileno()

    def charge(self, charge: Charge) -> None:
        self._say(json.dumps(asdict(charge)).encode())

    def beat(self) -> None:
        """Say that we are there, if that was not done just now."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + _BEAT_INTERVAL_S
            self._say(b"")

    def _say(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # the guard is stopped and has heard enough already, or it is gone
            self._line.send(text + b"\n")


class GuardsEnd:
    """`fd` becomes readable when the agent says something, or is gone."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._held = b""
        self.fd = line.fileno()
        self.is_open = True

    def take(self) -> Iterator[Charge]:
        """What has been said."""
        try:
            data = self._line.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.is_open = bool(data)
        *lines, self._held = (self._held + data).split(b"\n")
        for line in filter(None, lines):
            yield Charge(**json.loads(line))
