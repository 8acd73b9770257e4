"""Starts a cold task: one fork, one exec, and a report of what went wrong between the two.

The new process leads a session of its own, dies with the agent, has its three streams, its event stream and the file
for its stacks and no other descriptor, default signal dispositions and an empty signal mask.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from distrain.agent import processes
from distrain.wire import EVENTS_FD, STACKS_FD

_REPORT_FD = STACKS_FD + 1
_ABOVE_OURS = 16
_LARGEST_FD = 1 << 20


@dataclass(frozen=True)
class Refusal:
    """Why a task never ran: 127 not found, 126 not executable, 125 anything else, and a sentence."""

    exit_code: int
    message: str


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    *,
    stdin: int,
    output: int,
    events: int,
    stacks: int,
) -> tuple[int, int]:
    """Fork the task. Returns its pid, and a descriptor that `read_report` reads once it is readable.

    Raises:
        OSError: there cannot be another process now.
    """
    report_fd, report_writer = os.pipe()
    agent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(report_fd)
        os.close(report_writer)
        raise
    if pid == 0:
        _become(argv, env, cwd, (stdin, output, events, stacks, report_writer), agent)
    os.close(report_writer)
    return pid, report_fd


def read_report(report_fd: int, argv: Sequence[str], cwd: str) -> Refusal | None:
    """What the fork reported, and close `report_fd`. None: the program runs."""
    report = os.read(report_fd, 64)
    os.close(report_fd)
    if not report:
        return None
    step, number = report.decode().split()
    return _refusal(step, int(number), argv[0] if argv else "", cwd)


def file_of(data: bytes) -> int:
    """A descriptor from which `data` can be read, of a file that has no name."""
    try:
        fd = os.memfd_create("distrain")
    except (AttributeError, OSError):
        import tempfile

        fd, path = tempfile.mkstemp()
        os.unlink(path)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _become(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, fds: tuple[int, int, int, int, int], agent: int
) -> NoReturn:
    report = fds[-1]
    step = "start"
    try:
        os.setsid()
        processes.die_with_parent(agent)
        # What we move into place may have any number: first out of the way of the places.
        stdin, output, events, stacks, report = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_OURS) for fd in fds)
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(events, EVENTS_FD)
        os.dup2(stacks, STACKS_FD)
        report = os.dup2(report, _REPORT_FD, inheritable=False)
        os.closerange(_REPORT_FD + 1, _LARGEST_FD)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) is not None:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = "cwd"
        os.chdir(cwd)
        step = "exec"
        os.execvpe(argv[0], list(argv), env)
    except OSError as error:
        os.write(report, f"{step} {error.errno}".encode())
    except BaseException:  # noqa: BLE001  (this process ends here, whatever happened)
        os.write(report, f"{step} {errno.EINVAL}".encode())
    os._exit(127)


def _refusal(step: str, number: int, program: str, cwd: str) -> Refusal:
    why = os.strerror(number)
    if step == "cwd":
        return Refusal(
            125, f"the working directory {cwd} cannot be entered: {why}; create it there or run from another"
        )
    if step == "start":
        return Refusal(125, f"{program} could not be started: {why}")
    if number == errno.ENOENT and os.path.exists(os.path.join(cwd, program)):
        return Refusal(127, f"{program}: the interpreter that its first line names was not found")
    if number in (errno.ENOENT, errno.ENOTDIR):
        return Refusal(127, f"{program}: command not found; check its spelling, and PATH on that host")
    if number == errno.ENOEXEC:
        return Refusal(126, f"{program} is no program for this machine, or a script whose first line is not `#!…`")
    if number in (errno.EACCES, errno.EPERM):
        return Refusal(126, f"{program} is not executable; try `chmod +x` on it, or name its interpreter first")
    if number == errno.E2BIG:
        return Refusal(125, f"{program}: its arguments and environment together are too long for this system")
    return Refusal(125, f"{program} could not be started: {why}")
