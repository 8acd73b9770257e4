"""Holds TCP ports for the tasks of this host, from before their addresses are told until the agent ends.

A held port is bound with SO_REUSEADDR and never listens: TensorFlow's servers, which set SO_REUSEADDR too, can bind
it and listen, while nobody's `bind(0)`, outgoing connection or plain bind gets it. Where a token is to be told on the
port, a second socket listens for a while; it leaves nothing behind that would keep a server from the port.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

from distrain.agent.probes import Greeter

_ATTEMPTS_PER_PORT = 64


class Ports:
    """The reservations. The sockets close on exec, and nowhere is a task forked from the process that holds them."""

    def __init__(self) -> None:
        self.greeter = Greeter()
        self._held: list[socket.socket] = []

    def reserve(self, count: int, among: Sequence[int], token: str) -> tuple[int, ...]:
        """Up to `count` ports that nobody uses, out of `among` in its order, or any if that is empty.

        Who connects to one of them is told `token`, if that is not empty, until the greeter is closed.
        """
        found: list[int] = []
        for candidate in among or [0] * count * _ATTEMPTS_PER_PORT:
            if len(found) == count:
                break
            port = self._hold(candidate, token)
            if port is not None:
                found.append(port)
        return tuple(found)

    def _hold(self, candidate: int, token: str) -> int | None:
        """Hold port `candidate` (0: any free one). None: it is taken, or we may not have it."""
        with contextlib.ExitStack() as opened:
            holder = opened.enter_context(_open_on_all_addresses())
            claim = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            try:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.bind(("", candidate))
                port: int = holder.getsockname()[1]
                # Two holders could share a port, as neither listens. An abstract name, one per network namespace as
                # the ports are, settles which of two agents has it.
                claim.bind(f"\0distrain-port-{port}")
                if token:
                    listener = opened.enter_context(_open_on_all_addresses())
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind(("", port))
                    self.greeter.add(listener, token)
            except (OSError, OverflowError):
                return None
            opened.pop_all()
        self._held += [holder, claim]
        return port


def _open_on_all_addresses() -> socket.socket:
    """A socket for IPv6 and IPv4 together, as TensorFlow's servers use; for IPv4 where there is no IPv6."""
    if os.path.exists("/proc/net/if_inet6"):
        try:
            both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            return both
        except OSError:
            pass
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
