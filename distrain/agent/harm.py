"""Injuries that somebody asked for, to see a run recover from them: done, and undone again.

What takes a while is done aside. Nothing outlasts the agent, as far as it can run code at its end; what fills a disk
has no name, and so is gone in any case.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import IO

from distrain.agent.aside import Asides
from distrain.agent.task import Task
from distrain.wire import Harm, Harmed, Message

LEFT_BYTES = 64 << 10
"""A disk that is full to the last byte could not even hold a file's name."""

_SMALLEST_STEP_BYTES = 4 << 10
_LARGEST_STEP_BYTES = 1 << 30
_HANDLE = "d157:"
"""Names our own queueing discipline among those of other people, which are never touched."""
_BURST_BYTES = 64 << 10
_TC_TIMEOUT_S = 5.0
_LOOPBACK = "lo"
_KILLED = "the agent's helper process ended before it was done; see whether memory runs short there"


class Harms:
    """`running` gives the tasks of these names that run; `emit` is given the answers."""

    def __init__(
        self, asides: Asides, running: Callable[[tuple[str, ...]], list[Task]], emit: Callable[[Message], None]
    ) -> None:
        self._asides = asides
        self._running = running
        self._emit = emit
        self._undo_later: list[tuple[float, Callable[[], object]]] = []
        self._filling: IO[bytes] | None = None
        self._slowed: tuple[str, ...] = ()

    def do(self, order: Harm, folder: str | None) -> None:
        """Carry out `order`. `folder` is the run's here, if there is one."""
        if order.kind in ("kill", "stop"):
            self._strike(order)
        elif order.kind == "fill":
            self._fill(order, order.folder or folder)
        elif order.kind == "slow":
            addresses = [address for task in self._running(()) for address in _addresses_in(task.request.env)]
            self._slow(order, interfaces(addresses))
        else:
            self._harmed(order, f"{order.kind!r} is no harm that this agent knows; update distrain")

    @property
    def due(self) -> float:
        """When (monotonic) to call `tick`."""
        return min((at for at, _ in self._undo_later), default=math.inf)

    def tick(self) -> None:
        now = time.monotonic()
        for at, undo in [each for each in self._undo_later if each[0] <= now]:
            self._undo_later.remove((at, undo))
            undo()

    def undo(self) -> None:
        """The agent ends. Takes no longer than `tc` does."""
        self._release(self._filling)
        if self._slowed:
            _tc_quicken(self._slowed)
            self._slowed = ()

    def _harmed(self, order: Harm, error: str | None) -> None:
        self._emit(Harmed(order.kind, error))

    def _later(self, seconds: float, undo: Callable[[], object]) -> None:
        if seconds > 0:
            self._undo_later.append((time.monotonic() + seconds, undo))

    def _strike(self, order: Harm) -> None:
        tasks = self._running(order.tasks)
        for task in tasks:
            task.signal_main(signal.SIGKILL if order.kind == "kill" else signal.SIGSTOP)
            if order.kind == "stop":
                self._later(order.seconds, partial(task.signal_main, signal.SIGCONT))
        missing = sorted(set(order.tasks) - {task.name for task in tasks})
        if missing:
            self._harmed(order, f"{', '.join(missing)} cannot be harmed: not running there")
        else:
            self._harmed(order, None if tasks else "no task runs there that could be harmed")

    # ---- the disk

    def _fill(self, order: Harm, folder: str | None) -> None:
        if folder is None:
            self._harmed(order, "no folder was named whose disk is to be filled; say which")
            return
        if self._filling is not None:
            self._harmed(order, "the disk is filled already; wait until that is over")
            return
        try:
            file = self._filling = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            self._harmed(order, f"{folder} cannot be filled ({error.strerror}); name another folder")
            return
        # The child shares no descriptor with us, but this path leads to the very file.
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        until = time.monotonic() + order.seconds if order.seconds > 0 else math.inf
        self._later(order.seconds, partial(self._release, file))
        self._asides.run(partial(fill, path, until), partial(self._filled, order, file))

    def _filled(self, order: Harm, file: IO[bytes], result: Mapping[str, str | None] | None) -> None:
        error = _KILLED if result is None else result["error"]
        if error is not None:
            self._release(file)
        self._harmed(order, error)

    def _release(self, file: IO[bytes] | None) -> None:
        if file is not None:
            file.close()
            self._filling = None if file is self._filling else self._filling

    # ---- the network

    def _slow(self, order: Harm, names: tuple[str, ...]) -> None:
        if os.geteuid() != 0:
            self._harmed(order, "only root can slow a network; log in as root there, or choose another harm")
        elif self._slowed:
            self._harmed(order, "the network is slowed already; wait until that is over")
        elif not names:
            self._harmed(order, "there is no network interface that could be slowed")
        elif order.amount <= 0:
            self._harmed(order, "by how many milliseconds the network is to be slowed must be more than 0")
        else:
            self._slowed = names
            self._asides.run(partial(slow, names, order.amount), partial(self._is_slow, order))

    def _is_slow(self, order: Harm, result: Mapping[str, str | None] | None) -> None:
        error = _KILLED if result is None else result["error"]
        if error is not None:
            self._quicken()
        else:
            self._later(order.seconds, self._quicken)
        self._harmed(order, error)

    def _quicken(self) -> None:
        names, self._slowed = self._slowed, ()
        self._asides.run(partial(_tc_quicken, names), lambda _: None)


def interfaces(addresses: Iterable[str]) -> tuple[str, ...]:
    """The network interfaces that tasks at `addresses` (`host:port`) speak over: loopback alone if they all are there,
    else all that lead out.
    """
    hosts = [address.rpartition(":")[0] for address in addresses]
    if hosts and all(host in ("localhost", "[::1]") or host.startswith("127.") for host in hosts):
        return (_LOOPBACK,)
    names = set()
    for path, column in (("/proc/net/route", 0), ("/proc/net/ipv6_route", -1)):
        with contextlib.suppress(OSError), open(path) as file:
            names |= {line.split()[column] for line in file if line.strip()}
    return tuple(sorted(names & {name for _, name in socket.if_nameindex()} - {_LOOPBACK}))


def _addresses_in(environment: Mapping[str, str]) -> Iterable[str]:
    """Of all tasks of the run, as one of them is told them."""
    with contextlib.suppress(ValueError, AttributeError):  # a user may have put something else there
        told = json.loads(environment.get("DISTRAIN_ADDRESSES", "{}"))
        return [str(address) for address in told.values()]
    return []


def fill(path: str, until: float) -> dict[str, str | None]:
    """Let the file `path` take the free space of its disk, but for `LEFT_BYTES`, or as much as it gets `until` then
    (monotonic). Blocks. "error": why not, a sentence.
    """
    step_bytes = _LARGEST_STEP_BYTES
    try:
        fd = os.open(path, os.O_RDWR)
        end = os.fstat(fd).st_size
        while time.monotonic() < until:
            disk = os.fstatvfs(fd)
            free_bytes = disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) - LEFT_BYTES
            step_bytes = min(step_bytes, free_bytes)
            if step_bytes < _SMALLEST_STEP_BYTES:
                break
            try:
                os.posix_fallocate(fd, end, step_bytes)
                end += step_bytes
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                step_bytes //= 2
    except OSError as error:
        return {"error": f"the disk could not be filled ({error.strerror})"}
    return {"error": None}


def slow(names: tuple[str, ...], delay_ms: float) -> dict[str, str | None]:
    """Delay all that leaves by these interfaces; where the kernel cannot, let `_BURST_BYTES` take that long. Blocks.
    "error": why not, a sentence.
    """
    tc = _tc()
    if tc is None:
        return {"error": "the program `tc` is missing there; install iproute2"}
    rate = f"{max(1, round(_BURST_BYTES * 8 / delay_ms))}kbit"
    for name in names:
        _tc_quicken((name,))  # what an agent has left that was killed
        said = ""
        delayed = ("netem", "delay", f"{delay_ms:g}ms")
        throttled = ("tbf", "rate", rate, "burst", str(_BURST_BYTES), "latency", "1s")
        for discipline in (delayed, throttled):
            exit_code, told = _run((tc, "qdisc", "add", "dev", name, "root", "handle", _HANDLE, *discipline))
            said = said or told
            if exit_code == 0:
                break
        else:
            _tc_quicken(names)
            return {"error": f"the network interface {name} cannot be slowed; tc says: {said}"}
    return {"error": None}


def _tc_quicken(names: Iterable[str]) -> None:
    tc = _tc()
    if tc is None:
        return
    for name in names:
        _run((tc, "qdisc", "del", "dev", name, "root", "handle", _HANDLE))


def _tc() -> str | None:
    import shutil  # here, as nearly all agents never need it

    return shutil.which("tc", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))


def _run(argv: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and words of a program."""
    import subprocess  # here, as nearly all agents never need it

    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TC_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, " ".join((done.stdout + done.stderr).split())
