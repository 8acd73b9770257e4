"""What this host has: the facts that the agent tells in its Welcome."""

from __future__ import annotations

import math
import os
import re
import sys

from distrain.wire import PROTOCOL, Welcome


def welcome() -> Welcome:
    return Welcome(
        protocol=PROTOCOL,
        hostname=os.uname().nodename,
        pid=os.getpid(),
        python=".".join(map(str, sys.version_info[:3])),
        cores=_cores(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        gpus=sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev")),
    )


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
