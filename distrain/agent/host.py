"""What this host has: the facts that the agent tells in its Welcome."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator

from distrain.wire import PROTOCOL, Welcome

_SIOCGIFCONF = 0x8912
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_INTERFACE_BYTES = 40 if struct.calcsize("P") == 8 else 32
_MOST_INTERFACES = 1024
_UNUSABLE_IPV6 = 0x08 | 0x40  # duplicate, tentative
_IPV4_IN_IPV6 = bytes(10) + b"\xff\xff"


def welcome() -> Welcome:
    return Welcome(
        protocol=PROTOCOL,
        hostname=os.uname().nodename,
        pid=os.getpid(),
        python=".".join(map(str, sys.version_info[:3])),
        cores=_cores(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        gpus=sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev")),
        addresses=addresses(),
    )


def addresses() -> tuple[str, ...]:
    """By which other machines may reach this one: as the launcher's ssh did, then those of the interfaces."""
    by_ssh = os.environ.get("SSH_CONNECTION", "").split()[2:3]
    found = map(_reachable, (*by_ssh, *_ipv4_addresses(), *_ipv6_addresses()))
    return tuple(dict.fromkeys(filter(None, found)))


def _reachable(address: str) -> str | None:
    """The address in its usual form; None: it is of no use to other machines."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            packed = socket.inet_pton(family, address)
            if packed.startswith(_IPV4_IN_IPV6):
                family, packed = socket.AF_INET, packed[len(_IPV4_IN_IPV6) :]
            if family == socket.AF_INET:
                is_useless = packed[0] in (0, 127) or packed.startswith(b"\xa9\xfe")
            else:
                is_useless = packed in (bytes(16), bytes(15) + b"\1") or packed[:2] >= b"\xfe\x80"
            return None if is_useless else socket.inet_ntop(family, packed)
    return None


def _ipv4_addresses() -> Iterator[str]:
    size = _MOST_INTERFACES * _INTERFACE_BYTES
    held = bytearray(size)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        place = (ctypes.c_char * size).from_buffer(held)
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFCONF, struct.pack("iP", size, ctypes.addressof(place)))
        for start in range(0, struct.unpack("iP", answer)[0], _INTERFACE_BYTES):
            entry = bytes(held[start : start + _INTERFACE_BYTES])
            flags = fcntl.ioctl(asked.fileno(), _SIOCGIFFLAGS, entry[:16] + bytes(_INTERFACE_BYTES - 16))
            if struct.unpack_from("H", flags, 16)[0] & _IFF_UP:
                yield socket.inet_ntoa(entry[20:24])


def _ipv6_addresses() -> Iterator[str]:
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as file:
        for line in file:
            packed, _, _, scope, flags, _ = line.split()
            if int(scope, 16) == 0 and not int(flags, 16) & _UNUSABLE_IPV6:
                yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed))


def _cores() -> int:
    """Those that we are allowed to run on, or fewer where a control group grants less time than they have."""
    allowed = len(os.sched_getaffinity(0))
    granted = _granted_cores()
    return max(1, min(allowed, math.ceil(granted))) if granted < allowed else allowed


def _granted_cores() -> float:
    try:
        with open("/proc/self/cgroup") as file:
            group = next(line[3:].strip() for line in file if line.startswith("0::"))
        with open(f"/sys/fs/cgroup{group}/cpu.max") as file:
            quota, period = file.read().split()
        return int(quota) / int(period)
    except (OSError, StopIteration, ValueError):  # no such group, or "max"
        return math.inf
