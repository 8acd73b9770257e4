"""Processes for the benchmarks: starts them, reads what they print, weighs them, and leaves none behind. Linux only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BASELINES = Path(__file__).parent / "baselines"


DEADLINE_S = 300.0
"""No one measurement takes as long: what still runs then hangs, and is ended so that the benchmark fails."""


class Processes:
    """Commands that were started together, each leading a session of its own. `with` ends them all by SIGKILL.

    `began` is the moment before the first was started, in Unix seconds.
    """

    def __init__(self) -> None:
        self.began = time.time()
        self._started: list[subprocess.Popen[str]] = []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self._deadline = threading.Timer(DEADLINE_S, self._kill)
        self._deadline.daemon = True
        self._deadline.start()

    def start(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def pids(self) -> list[int]:
        return [pid for process in self._started for pid in (process.pid, *descendants(process.pid))]

    def error_tail(self) -> str:
        """The last of what they all wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._deadline.cancel()
        self._kill()
        for process in self._started:
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._errors.close()

    def _kill(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


class Baseline(Processes):
    """A cluster of plain `python` processes of one script in `baselines/`, each with its TF_CONFIG."""

    def __init__(self, script: str, roles: Mapping[str, int], *arguments: str) -> None:
        super().__init__()
        names = [(role, index) for role, count in roles.items() for index in range(count)]
        with ExitStack() as held:
            ports = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in names]
        addresses = dict(zip(names, (f"127.0.0.1:{port}" for port in ports), strict=True))
        cluster = {role: [addresses[role, index] for index in range(count)] for role, count in roles.items()}
        self.began = time.time()
        for role, index in names:
            config = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
            self.start((sys.executable, str(BASELINES / script), *arguments), {"TF_CONFIG": config})

    def says(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """The chief's JSON lines with the time at which each was read.

        Raises:
            RuntimeError: a process failed.
        """
        chief = self._started[0]
        assert chief.stdout is not None
        for line in chief.stdout:
            yield time.time(), json.loads(line)
        if chief.wait():
            raise RuntimeError(f"the baseline's chief ended with {chief.returncode}:\n{self.error_tail()}")


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs, the nearest first."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = list(children.get(pid, ()))
    for each in found:
        found.extend(children.get(each, ()))
    return found


def pss_bytes(pids: Sequence[int]) -> int:
    """Memory of these processes, every shared page counted once among those that share it (PSS)."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return total


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, its own threads alone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def command_name(pid: int) -> str:
    """What a process is called, as `ps -o comm` shows it."""
    return Path(f"/proc/{pid}/comm").read_text().strip()
