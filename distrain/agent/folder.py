"""A run's folder on this host: made, held while its agent lives, and removed, if need be by the next run's agent.

A folder is held by a lock on a file inside, which the kernel lets go when the agent is gone, however it ended. Which
folder is whose is settled under a lock on the folder of all runs: one that is there and not held has nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator

from distrain.arrival import discard

_HELD = ".held"
_LOCK = ".lock"
_DEAD = ".dead-"
_LONGEST_NAME = 100


class FolderError(Exception):
    """There can be no folder. The message is a sentence."""


class RunFolder:
    """`path`, with `code` and `run` in it, for the run called `run`. `cache` is the folder of distrain's code.

    Raises:
        FolderError: it can be made nowhere.
    """

    def __init__(self, run: str, cache: str | None) -> None:
        name = re.sub(r"[^\w.-]", "_", run, flags=re.ASCII).lstrip(".")[:_LONGEST_NAME]
        tried = []
        for parent in _parents(cache):
            try:
                self._make(parent, name)
                return
            except OSError as error:
                tried.append(f"in {parent} ({error.strerror})")
        raise FolderError(
            f"no folder for the run can be made {', nor '.join(tried)}; free some space or set the permissions there, "
            "or point XDG_CACHE_HOME to another place"
        )

    @property
    def code(self) -> str:
        return os.path.join(self.path, "code")

    @property
    def run(self) -> str:
        return os.path.join(self.path, "run")

    def remove_stale(self) -> None:
        """Remove the folders beside this one whose agents are gone."""
        parent = os.path.dirname(self.path)
        dead = []
        with _locked(parent) as is_locked:
            for name in os.listdir(parent) if is_locked else ():
                path = os.path.join(parent, name)
                if name.startswith(_DEAD):
                    dead.append(path)
                elif not name.startswith(".") and _is_abandoned(path):
                    dead.append(os.path.join(parent, _DEAD + name))
                    os.rename(path, dead[-1])
        for path in dead:
            discard(path)

    def _make(self, parent: str, name: str) -> None:
        import tempfile  # here, as for most agents this and the like below are never needed

        os.makedirs(parent, mode=0o700, exist_ok=True)
        status = os.lstat(parent)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "others could write there")
        with _locked(parent):
            self.path = tempfile.mkdtemp(prefix=f"{name}-", dir=parent)
            try:
                # Left open for as long as we live.
                holder = os.open(os.path.join(self.path, _HELD), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with contextlib.suppress(OSError):  # where files cannot be locked, nobody removes what is stale
                    fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(holder, os.uname().nodename.encode())
                for folder in (self.code, self.run, os.path.join(self.run, "output")):
                    os.mkdir(folder, 0o700)
            except OSError:
                discard(self.path)
                raise


def _parents(cache: str | None) -> Iterator[str]:
    import tempfile

    if cache is not None:
        yield os.path.join(os.path.dirname(os.path.abspath(cache)), "runs")
    yield os.path.join(tempfile.gettempdir(), f"distrain-{os.geteuid()}")


def _is_abandoned(path: str) -> bool:
    try:
        holder = os.open(os.path.join(path, _HELD), os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        # A home that several machines share may not share its locks.
        if os.read(holder, 1024) != os.uname().nodename.encode():
            return False
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(holder)
    return True


@contextlib.contextmanager
def _locked(parent: str) -> Iterator[bool]:
    """Hold the lock on the folder of all runs; whether there can be one."""
    lock = os.open(os.path.join(parent, _LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)
