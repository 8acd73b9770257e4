"""What the launcher asks about this host, answered by work that is done aside."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from distrain.agent.aside import Asides
from distrain.agent.probes import probe
from distrain.wire import Examined, Message, Probe, Probed

_KILLED = "the agent's helper process ended before it could tell; see whether memory runs short there"


class Questions:
    """`emit` is given the answers."""

    def __init__(self, asides: Asides, emit: Callable[[Message], None]) -> None:
        self._asides = asides
        self._emit = emit

    def examine(self, python: str, folder: str | None) -> None:
        """Answered by Examined. `folder` is where the run's is, or would be."""
        from distrain.agent.examine import examine  # here, as a local run needs none of what it imports

        self._asides.run(partial(examine, python, folder), self._examined)

    def probe(self, order: Probe) -> None:
        """Answered by Probed."""
        self._asides.run(partial(probe, order.targets, order.timeout_s), partial(self._probed, order))

    def _examined(self, found: dict[str, Any] | None) -> None:
        facts = found or {"versions": {}, "free_bytes": 0, "gpus": (), "error": _KILLED}
        self._emit(Examined(**{**facts, "time": time.time()}))

    def _probed(self, order: Probe, found: list[str | None] | None) -> None:
        self._emit(Probed(order.number, tuple([_KILLED] * len(order.targets) if found is None else found)))
