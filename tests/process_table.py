"""Looks at the process table: which processes carry a mark in their environment, and what they have used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "DISTRAIN_TEST_MARK"


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    state: str
    command: str


def marked(mark: str) -> list[Process]:
    """Every living process with MARK=mark in its environment, whoever its parent is. Zombies have no environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(entry.name) != os.getpid():
            found.append(Process(int(entry.name), int(parent), state, command))
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that the process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def wait_until(condition: Callable[[], object], timeout_s: float, what: str = "the condition") -> float:
    """Waits until `condition()` is true, and returns for how many seconds.

    Raises:
        AssertionError: it was not, in `timeout_s`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.01)
    return time.monotonic() - began
