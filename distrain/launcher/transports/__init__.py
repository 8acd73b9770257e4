"""How to reach a host: one module per way, imported when it is used.

A transport turns what is to run on a host into the command that runs it there, with our pipes as its standard
streams, and knows what its own failures mean. It starts nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from distrain.job.cluster import Host

_MODULES = {"local": "distrain.launcher.transports.local", "ssh": "distrain.launcher.transports.ssh"}


class Transport(Protocol):
    """The way to one host."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command, run here, that runs `argv` on the host, each argument arriving there as it is."""

    def explain(self, argv: Sequence[str], exit_code: int | None, stderr: str, stdout: str | None) -> str | None:
        """What a connection that ended, or never answered, means, as a sentence with the next step; None: not known.

        `exit_code` is that of the command, negative for a signal, None while it still runs; `stderr` the end of
        what it printed, which may begin with a login's greeting. `stdout`: the end of what came in the agent's place,
        None once the agent has said welcome.
        """


def open_transport(host: Host) -> Transport:
    """The way to `host`. Nothing is connected yet.

    Raises:
        HostError: the host's name cannot be one, or what it takes to reach hosts is missing on this machine.
    """
    return cast(Transport, importlib.import_module(_MODULES[host.transport]).open_host(host))


def python_on(host: Host, here: str = sys.executable) -> str:
    """The interpreter that the agent and the tasks on `host` get; `here`: the one on this machine."""
    return host.python or (here if host.transport == "local" else "python3")
