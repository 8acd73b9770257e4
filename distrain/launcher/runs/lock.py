"""Who runs a run: the lock that a launcher holds on the run directory for as long as it lives.

The kernel lets a lock go with the process that holds it, however that ends, so what a lock file says counts only while
it is held. Where files cannot be locked, a run goes on unlocked, and nobody finds its launcher.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import UsageError
from distrain.launcher.runs.rundir import RunDir

AGENTS_PATIENCE_S = 60.0
"""How long what a killed launcher has left may take to end: longer than an agent takes at most."""

_LOOK_EVERY_S = 0.05
_LOOKING_S = 0.5
_WRITTEN_WITHIN_S = 1.0


@dataclass(frozen=True)
class Launcher:
    """The process that runs a run, on the machine of that name. `numbering`: where its number means that process."""

    pid: int
    machine: str
    numbering: str

    @property
    def is_here(self) -> bool:
        return self.numbering == numbering()


@contextlib.contextmanager
def held(rundir: RunDir) -> Iterator[None]:
    """Hold the run until the end of the context, or of the process.

    Raises:
        UsageError: another launcher holds it, or the directory cannot be written to.
    """
    fd = _opened(rundir.lock_file)
    deadline = time.monotonic() + _LOOKING_S
    try:
        while not _is_locked(fd):
            if time.monotonic() < deadline:  # somebody may just be looking whether it is held
                time.sleep(_LOOK_EVERY_S)
                continue
            raise UsageError(
                f"{rundir.name} is still going; look at it with `distrain attach {rundir.name}`, "
                f"or end it first with `distrain stop {rundir.name}`"
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n{os.uname().nodename}\n{numbering()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def agents_held(rundir: RunDir, *, enough: Callable[[], bool]) -> Iterator[int]:
    """A descriptor for the agents on this machine to inherit: whoever comes later waits here until all of them have
    ended, and what they had started with them, or until `enough` says so.

    Raises:
        UsageError: they do not end.
    """
    fd = _opened(rundir.agents_file)
    deadline = time.monotonic() + AGENTS_PATIENCE_S
    try:
        while not _is_locked(fd) and not enough():
            if time.monotonic() >= deadline:
                raise UsageError(
                    f"processes of {rundir.name} are left from before and do not end; "
                    f"see `fuser {rundir.agents_file}` for which, and end them"
                )
            time.sleep(_LOOK_EVERY_S)
        yield fd
    finally:
        os.close(fd)


def launcher_of(rundir: RunDir) -> Launcher | None:
    """Who runs the run now. None: nobody."""
    deadline = time.monotonic() + _WRITTEN_WITHIN_S
    while True:
        try:
            fd = os.open(rundir.lock_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            if _is_locked(fd, fcntl.LOCK_SH):
                return None
            words = os.pread(fd, 1024, 0).decode(errors="replace").split()
        finally:
            os.close(fd)
        if len(words) == 3 and words[0].isdecimal():
            return Launcher(int(words[0]), words[1], words[2])
        if time.monotonic() >= deadline:
            return None
        time.sleep(_LOOK_EVERY_S)  # it has the lock, and is about to write


def send_signal(rundir: RunDir, number: signal.Signals) -> bool:
    """Send a signal to the run's launcher; False: there is none.

    Raises:
        UsageError: it is on another machine, or another user's.
    """
    launcher = launcher_of(rundir)
    if launcher is None:
        return False
    if not launcher.is_here:
        raise UsageError(f"{rundir.name} is run from {launcher.machine}, or from a container there; stop it there")
    try:
        process = os.pidfd_open(launcher.pid)
    except ProcessLookupError:
        return False
    try:
        # Held by the same one as before, so the descriptor is of that very process, and never of a later one.
        if launcher_of(rundir) != launcher:
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise UsageError(f"{rundir.name} is another user's, who alone can stop it") from error
    finally:
        os.close(process)
    return True


def numbering() -> str:
    """Names the processes that have numbers of their own here: those of a machine since it was started, or of one of
    its containers, which may bear the machine's name.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}; a run goes on only in a directory that this user may write to"
        ) from error


def _is_locked(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock is ours now. Where there are no locks it is, too."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
