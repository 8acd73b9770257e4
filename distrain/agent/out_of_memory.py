"""Whether the kernel killed a process because memory ran out: its control group's count, and the kernel's own log.

A count rises before the process dies, and the log may say so a moment after, or not be readable: one of them is
enough. A count does not tell which process it was, so each kill that it has counted explains one death.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

_LOG = "/dev/kmsg"
_MAX_RECORD_BYTES = 8192
_INITIAL_PIDS = "pid:[4026531836]"
"""The kernel's name for the numbers that its log speaks of. In a container, processes have others."""
_KILLED = re.compile(r"(Memory cgroup out|Out) of memory: Killed process (\d+)(?:.*?anon-rss:(\d+)kB)?")


@dataclass(frozen=True)
class Killed:
    """A process that the kernel's log says it killed. `group`: because its control group had its share already."""

    pid: int
    group: bool
    resident_bytes: int | None

    def __str__(self) -> str:
        held = "" if self.resident_bytes is None else f", with {self.resident_bytes >> 20} MiB resident"
        why = "its control group may have no more" if self.group else "the machine had no more"
        return f"out of memory: the kernel killed it{held}, as {why}"


def killed(record: str) -> Killed | None:
    """What one record of the kernel's log says."""
    found = _KILLED.search(record)
    if found is None:
        return None
    resident_bytes = None if found[3] is None else int(found[3]) * 1024
    return Killed(int(found[2]), found[1] != "Out", resident_bytes)


def kills_counted(text: str) -> int | None:
    """The count in a `memory.events` (version 2) or `memory.oom_control` (version 1). None: this kernel has none."""
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.strip().isdigit():
            return int(count)
    return None


def counting_file(groups: str, mounts: str) -> str | None:
    """Where the kills of a process's control group are counted, from its `/proc/<pid>/cgroup` and a `mountinfo`."""
    by_controller: dict[str, str] = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        by_controller.update(dict.fromkeys(controllers.split(","), path))
    for kind, controller, name in (("cgroup", "memory", "memory.oom_control"), ("cgroup2", "", "memory.events")):
        group = by_controller.get(controller)
        for root, place in _mounted(mounts, kind, controller) if group is not None else ():
            inside = os.path.relpath(group or "/", root)
            # Of a container's own group, the path may be told as it is outside: then what is mounted is that group.
            return os.path.normpath(os.path.join(place, "" if inside.startswith("..") else inside, name))
    return None


def _mounted(mounts: str, kind: str, controller: str) -> Iterable[tuple[str, str]]:
    """The root and the place of each mount of this kind that has this controller."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        words, (what, *_, options) = before.split(), after.split()
        if what == kind and (not controller or controller in options.split(",")):
            yield words[3], words[4]


@dataclass(frozen=True)
class Account:
    """What stood at a task's start in the file that counts its control group's kills."""

    path: str
    count: int


class KernelsWord:
    """What the kernel has said since this was made."""

    def __init__(self) -> None:
        self._log = _open_log()
        self._named: dict[int, Killed] = {}
        self._explained: dict[str, int] = {}

    def account(self, pid: int) -> Account | None:
        """To be kept from the start of the process `pid`: where a dead one was is no longer told. What the log has said
        by now was of another of that number.
        """
        self._read_log()
        self._named.pop(pid, None)
        with contextlib.suppress(OSError, ValueError):
            path = counting_file(_text(f"/proc/{pid}/cgroup"), _text("/proc/self/mountinfo"))
            count = None if path is None else kills_counted(_text(path))
            if path is not None and count is not None:
                return Account(path, count)
        return None

    def why(self, pid: int, account: Account | None) -> str | None:
        """The sentence for the process `pid` that was killed, if memory was the reason."""
        self._read_log()
        named = self._named.pop(pid, None)
        counted = account is not None and self._is_one_more(account, named is not None)
        if named is not None:
            return str(named)
        return "out of memory: the kernel killed it, as the count of its control group says" if counted else None

    def _is_one_more(self, account: Account, is_known: bool) -> bool:
        """Whether a kill was counted that explains no other death; it explains this one now."""
        explained = max(account.count, self._explained.get(account.path, 0))
        with contextlib.suppress(OSError):
            if is_known or (kills_counted(_text(account.path)) or 0) > explained:
                self._explained[account.path] = explained + 1
                return True
        return False

    def _read_log(self) -> None:
        while self._log >= 0:
            try:
                record = os.read(self._log, _MAX_RECORD_BYTES)
            except BrokenPipeError:  # some were overwritten before they were read
                continue
            except OSError:  # no more for now
                return
            found = killed(record.decode(errors="replace"))
            if found is not None:
                self._named[found.pid] = found


def _open_log() -> int:
    """The kernel's log, to be read from its end; -1: it is not for us."""
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self/ns/pid") == _INITIAL_PIDS:
            log = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(log, 0, os.SEEK_END)
            return log
    return -1


def _text(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()
