"""Whether hosts reach each other: the one side, which says a token to who connects, and the other, which tries.

Who tries closes first, so that no port on which somebody was greeted is left waiting for late packets.
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

_MOST_GUESTS = 256
_GUEST_S = 1.0
_MOST_AT_ONCE = 256
_STACK_BYTES = 1 << 20
_SPARE_S = 5.0
_WITHOUT_LINGERING = struct.pack("ii", 1, 0)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


class Greeter:
    """Listens on the sockets that it is given, and tells a token to all who connect."""

    def __init__(self) -> None:
        self._listeners: dict[socket.socket, bytes] = {}
        self._guests: dict[socket.socket, float] = {}

    def add(self, listener: socket.socket, token: str) -> None:
        listener.setblocking(False)
        listener.listen(_MOST_GUESTS)
        self._listeners[listener] = token.encode() + b"\n"

    def sources(self) -> Iterator[tuple[int, Callable[[], object]]]:
        """What to wait for: descriptors that become readable, and what to call then."""
        if len(self._guests) < _MOST_GUESTS:
            for listener in self._listeners:
                yield listener.fileno(), partial(self._greet, listener)
        for guest in self._guests:
            yield guest.fileno(), partial(self._part_with, guest)

    @property
    def next_tick(self) -> float:
        """When (monotonic) `tick` is due."""
        return min(self._guests.values(), default=math.inf)

    def tick(self) -> None:
        now = time.monotonic()
        for guest in [guest for guest, until in self._guests.items() if until <= now]:
            self._part_with(guest)

    def close(self) -> None:
        """Greet nobody any more: the ports are for the tasks."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for guest in list(self._guests):
            self._part_with(guest)

    def _greet(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            guest, _ = listener.accept()
            guest.setblocking(False)
            # Should we close first all the same, then so that the port does not wait.
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _WITHOUT_LINGERING)
            self._guests[guest] = time.monotonic() + _GUEST_S
            guest.send(self._listeners[listener])

    def _part_with(self, guest: socket.socket) -> None:
        self._guests.pop(guest, None)
        guest.close()


def probe(targets: Sequence[Sequence[Any]], timeout_s: float) -> list[str | None]:
    """Try every [address, port, token]: None, or why not, as `wire.Probed` has it. Blocks, and so is done aside.

    Threads do it, since only so a name can be looked up within a time.
    """
    results: list[str | None] = ["timed out"] * len(targets)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(targets)):
        waiting.put(number)

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number = waiting.get_nowait()
                results[number] = _try(*targets[number], timeout_s=timeout_s)

    threading.stack_size(_STACK_BYTES)
    threads: list[threading.Thread] = []
    with contextlib.suppress(RuntimeError):  # this user may have no more of them
        while len(threads) < min(_MOST_AT_ONCE, len(targets)):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            threads.append(thread)
    if not threads:
        work()
    rounds = math.ceil(len(targets) / max(1, len(threads)))
    deadline = time.monotonic() + rounds * timeout_s + _SPARE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(results)


def _try(address: str, port: int, token: str, *, timeout_s: float) -> str | None:
    deadline = time.monotonic() + timeout_s
    try:
        with socket.create_connection((address, port), timeout_s) as connection:
            if connection.getsockname() == connection.getpeername():
                return "refused"  # nobody listens there, and by chance we got that very port to call from
            return None if not token or _says(connection, token, deadline) else "another program answers there"
    except TimeoutError:
        return "timed out"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in _NO_ROUTE:
            return "no route"
        return getattr(error, "strerror", None) or str(error)


def _says(connection: socket.socket, token: str, deadline: float) -> bool:
    """Whether who has taken the connection says `token`, and nothing else, in time."""
    expected = token.encode() + b"\n"
    heard = b""
    with contextlib.suppress(OSError):
        while len(heard) < len(expected) and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s)
            data = connection.recv(len(expected) - len(heard))
            if not data:
                break
            heard += data
    return heard == expected
