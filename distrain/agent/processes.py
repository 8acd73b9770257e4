"""The process table: who is below whom, what it uses, and how a very process is signalled.

Owns everything that is read from /proc and set with prctl. Decides nothing about tasks.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table. `started` (clock ticks since boot) tells two holders of one number apart.

    `cpu_s` counts the children that it has waited for. `stopped`: by a signal, or a debugger.
    """

    pid: int
    parent: int
    group: int
    session: int
    alive: bool
    stopped: bool
    started: int
    cpu_s: float


def read(pid: int) -> Process | None:
    """The process that now has this number."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            line = file.read(4096)
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    part = line[line.rindex(b")") + 2 :].split()
    cpu_ticks = int(part[11]) + int(part[12]) + int(part[13]) + int(part[14])
    return Process(
        pid=pid,
        parent=int(part[1]),
        group=int(part[2]),
        session=int(part[3]),
        alive=part[0] not in b"ZX",
        stopped=part[0] in b"Tt",
        started=int(part[19]),
        cpu_s=cpu_ticks / _TICKS_PER_S,
    )


def table() -> dict[int, Process]:
    """Every process that can be seen, zombies included."""
    return {found.pid: found for name in os.listdir("/proc") if name.isdigit() and (found := read(int(name)))}


def below(processes: Mapping[int, Process], root: int) -> list[Process]:
    """The descendants of `root`, parents before their children."""
    children = defaultdict(list)
    for process in processes.values():
        children[process.parent].append(process)
    found = list(children[root])
    for process in found:  # grows while it is walked
        found += children[process.pid]
    return found


def children_of_this_process() -> list[int]:
    """The numbers of our children, zombies included."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [process.pid for process in table().values() if process.parent == own]


def send_signal(process: Process, number: int) -> None:
    """Signal this very process. Nothing happens if it is gone, even if its number went to another since."""
    handle = None
    try:
        with contextlib.suppress(OSError, AttributeError):  # before Linux 5.3 there are no such handles
            handle = os.pidfd_open(process.pid)
        now = read(process.pid)
        if now is None or now.started != process.started:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if handle is None:
                os.kill(process.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
    finally:
        if handle is not None:
            os.close(handle)


def end_all_below(timeout_s: float = math.inf) -> list[Process]:
    """SIGKILL and reap whatever is below this process, until nothing is. Returns what outlived the timeout.

    Being a subreaper, we inherit the children of all that dies below us: when we have no child, nothing is left.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0005
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return []
        left = [process for process in below(table(), os.getpid()) if process.alive]
        if time.monotonic() > deadline:
            return left
        for process in left:
            send_signal(process, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for the signal `number`."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def memory_bytes(process: Process) -> int:
    """Resident memory, pages shared with n processes counted by 1/n where the kernel tells that."""
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        with open(f"/proc/{process.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def has_in_environment(process: Process, entry: bytes) -> bool:
    """Whether `entry` (`NAME=value`) was in the environment that the process was started with."""
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:
        return False


def holds_any(process: Process, names: frozenset[str]) -> bool:
    """Whether the process has one of these open, as `name_of` gives it."""
    folder = f"/proc/{process.pid}/fd"
    try:
        return any(_link(f"{folder}/{fd}") in names for fd in os.listdir(folder))
    except OSError:
        return False


def name_of(fd: int) -> str:
    """What the kernel calls the open pipe `fd`: both ends and all their holders see the same name."""
    return _link(f"/proc/self/fd/{fd}")


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def adopt_orphans() -> None:
    """From now on, what loses its parent below us becomes our child."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """From now on, SIGKILL for us when `parent` ends; at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def name_this_process(name: str) -> None:
    """The name that `ps` and `top` show, at most 15 bytes."""
    _prctl(_PR_SET_NAME, name.encode())


def _prctl(option: int, argument: int | bytes) -> None:
    if _LIBC.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
