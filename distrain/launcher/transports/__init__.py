"""How to reach a host: one module per way, imported when it is used.

A transport turns what is to run on a host into the command that runs it there, with our pipes as its standard
streams, and knows what its own failures mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

_MODULES = {"local": "distrain.launcher.transports.local"}


class Transport(Protocol):
    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """The command, run here, that runs `argv` on `host`, each argument arriving there as it is."""

    def explain(self, host: str, argv: Sequence[str], exit_code: int | None, stderr: str) -> str | None:
        """What a connection that failed with this means, as a sentence with the next step; None: not known.

        `exit_code` is that of the command, negative for a signal, None while it still runs; `stderr` the end of
        what it printed.
        """


def open_transport(name: str) -> Transport:
    """The transport of that name.

    Raises:
        KeyError: there is none.
    """
    return cast(Transport, importlib.import_module(_MODULES[name]))
