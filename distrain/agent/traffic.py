"""What tasks send and receive over TCP, as the kernel counts it: loopback and sent again included, headers not.

Owns the question to the kernel (NETLINK_SOCK_DIAG: one for all sockets of this host, which needs no rights) and which
socket is whose. A socket that has closed keeps its last count, so what went between that and the closing is missing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_INET_DIAG_INFO = 2
_SYN_RECEIVED, _TIME_WAIT, _LISTEN = 3, 6, 10
_STATES = 0xFFF & ~(1 << _SYN_RECEIVED | 1 << _TIME_WAIT | 1 << _LISTEN)
"""Those of sockets that carry something, or have."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST = struct.Struct("=BBBxI48x")
_COUNT = struct.Struct("=Q")
_SOCKET_BYTES = 72
_COOKIE_AT, _INODE_AT = 44, 68
_RECEIVED_AT, _SENT_AT = 128, 200
"""Where in `struct tcp_info` the counts are. The second has been there since Linux 4.19."""

_ANSWER_BYTES = 256 * 1024
_TIMEOUT_S = 0.2


class CannotTell(Exception):
    """The kernel does not answer, or not with what we need."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP socket. `cookie` is never given twice; `inode` is 0 when no process has it any more, or not yet."""

    cookie: bytes
    inode: int
    sent_bytes: int
    received_bytes: int


@dataclass
class _Counts:
    """What one task's sockets have carried: those that are there, by cookie, and the sum of those that are not."""

    open: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    past: tuple[int, int] = (0, 0)

    @property
    def total(self) -> tuple[int, int]:
        return _sum(self.past, *self.open.values())

    def forget_but(self, cookies: Collection[bytes]) -> None:
        gone = self.open.keys() - cookies
        self.past = _sum(self.past, *(self.open.pop(cookie) for cookie in gone))


class Traffic:
    """`connections` asks the kernel; after it could not tell once, it is not asked again."""

    def __init__(self, connections: Callable[[], Collection[Connection]] | None = None) -> None:
        self._connections = connections or tcp_connections
        self._counts: dict[int, _Counts] = {}
        self._owners: dict[bytes, int | None] = {}
        self._pids: frozenset[int] = frozenset()
        self._silent = False

    def sample(self, members: Mapping[int, Collection[int]]) -> Mapping[int, tuple[int, int] | None]:
        """Bytes sent and received so far by each task; None: that cannot be told. `members`: each task's processes, by
        the number of its main one. A task that is left out is forgotten.
        """
        try:
            connections = [] if self._silent else self._connections()
        except (CannotTell, OSError):
            self._silent = True
        if self._silent:
            return dict.fromkeys(members)
        self._counts = {task: self._counts.get(task, _Counts()) for task in members}
        self._find_owners(connections, members)
        for each in connections:
            owner = self._owners.get(each.cookie)
            if owner is not None and (counts := self._counts.get(owner)) is not None:
                counts.open[each.cookie] = (each.sent_bytes, each.received_bytes)
        for counts in self._counts.values():
            counts.forget_but(self._owners.keys())
        return {task: counts.total for task, counts in self._counts.items()}

    def _find_owners(self, connections: Collection[Connection], members: Mapping[int, Collection[int]]) -> None:
        """Learn whose the new sockets are. Looking at every descriptor is what costs, so it is done only when there are
        new sockets, or new processes that one may belong to which was nobody's.
        """
        pids = frozenset(pid for of_task in members.values() for pid in of_task)
        known = {each.cookie: self._owners[each.cookie] for each in connections if each.cookie in self._owners}
        if not pids <= self._pids:
            known = {cookie: owner for cookie, owner in known.items() if owner in members}
        new = [each for each in connections if each.inode and each.cookie not in known]
        if new:
            owners = {inode: task for task, of_task in members.items() for inode in _sockets_of(of_task)}
            known.update((each.cookie, owners.get(each.inode)) for each in new)
        self._owners, self._pids = known, pids


def tcp_connections() -> list[Connection]:
    """Every TCP socket of this network namespace that does not listen.

    Raises:
        CannotTell, OSError: the kernel does not say.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        return [each for family in (socket.AF_INET, socket.AF_INET6) for each in _asked(kernel, family)]


def _asked(kernel: socket.socket, family: int) -> Iterator[Connection]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << _INET_DIAG_INFO - 1, _STATES)
    length = _HEADER.size + len(request)
    kernel.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + request)
    while True:
        answer = kernel.recv(_ANSWER_BYTES)
        start = 0
        while start + _HEADER.size <= len(answer):
            length, kind, *_ = _HEADER.unpack_from(answer, start)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR or length < _HEADER.size:
                raise CannotTell
            yield from _connection(answer[start + _HEADER.size : start + length])
            start += -(-length // 4) * 4
        if not answer:
            raise CannotTell


def _connection(told: bytes) -> Iterator[Connection]:
    """What a `struct inet_diag_msg` and the attributes after it tell of; nothing, where only the addresses are left."""
    cookie, (inode,) = told[_COOKIE_AT : _COOKIE_AT + 8], struct.unpack_from("=I", told, _INODE_AT)
    start = _SOCKET_BYTES
    while start + _ATTRIBUTE.size <= len(told):
        length, kind = _ATTRIBUTE.unpack_from(told, start)
        if kind == _INET_DIAG_INFO:
            info = told[start + _ATTRIBUTE.size : start + length]
            if len(info) < _SENT_AT + _COUNT.size:
                raise CannotTell
            yield Connection(
                cookie, inode, *_COUNT.unpack_from(info, _SENT_AT), *_COUNT.unpack_from(info, _RECEIVED_AT)
            )
        start += max(_ATTRIBUTE.size, -(-length // 4) * 4)


def _sockets_of(pids: Collection[int]) -> Iterator[int]:
    """The inodes of the sockets that these processes have open."""
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for fd in os.listdir(folder):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"{folder}/{fd}")
                    if target.startswith("socket:["):
                        yield int(target[len("socket:[") : -1])


def _sum(*counts: tuple[int, int]) -> tuple[int, int]:
    return sum(sent for sent, _ in counts), sum(received for _, received in counts)
