"""Sends what tasks leave: which files, in which order, and what has been sent already.

A checkpoint or the model goes when its task says that it is complete; all else that is new or changed when the last
task has ended, whose TaskCleared waits for it. That is what is in their run directory, and, if it is not too much,
what they left where they started, which arrives in a folder `cwd`. Files are read a part at a time, as the caller
finds room for them, and are held open from before their first part is sent: what is removed meanwhile arrives whole
all the same.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distrain.wire import AgentNote, FilePart, Message, TaskCleared, TaskEvent

PART_BYTES = 1 << 20

_ANNOUNCING = ("checkpoint", "model")
_CWD = "cwd"
_MOST_FROM_CWD_BYTES = 256 << 20
"""More than that is rather data that a task has fetched for itself than what somebody waits for."""
_NO_FILE = "it is a link or no file at all"
_NOBODYS = ("__pycache__",)
_FOLDER_OF_FOLDERS = "checkpoints"
"""Each folder in here is an artifact, whether its task has still said so or not."""


class Shipping:
    """Stands between the tasks and `send`. `root` is the run directory, and `tasks_left` tells whether there are tasks.

    `cwd` is where they start, holding a copy of the user's code.
    """

    def __init__(self, root: str, cwd: str, tasks_left: Callable[[], bool], send: Callable[[Message], None]) -> None:
        self._root = os.path.realpath(root)
        self._cwd = os.path.realpath(cwd)
        self._began_at = 0
        self._tasks_left = tasks_left
        self._send = send
        self._waiting: deque[str | TaskCleared] = deque()
        self._open: _Artifact | None = None
        self._announced: set[str] = set()
        self._sent: dict[str, _Signature] = {}
        self._stopped = False

    def __bool__(self) -> bool:
        """Whether something waits for room."""
        return self._open is not None or bool(self._waiting)

    def tasks_start(self) -> None:
        """Whatever changes from now on is a task's doing."""
        with tempfile.TemporaryFile(dir=self._root) as mark:
            self._began_at = os.fstat(mark.fileno()).st_ctime_ns  # by the file system's own clock

    def pass_on(self, message: Message) -> None:
        """A task says something: note what it means for files, and send it, or keep it until they are sent."""
        if isinstance(message, TaskCleared) and not self._stopped and not self._tasks_left():
            self._waiting += [*self._survey(), *self._left_in_cwd(), message]
            return
        self._send(message)
        if isinstance(message, TaskEvent) and message.kind in _ANNOUNCING and not self._stopped:
            path = message.data.get("path")
            if isinstance(path, str):
                self._announced.add(os.path.normpath(path))
                self._waiting.append(os.path.normpath(path))

    def advance(self) -> None:
        """Send one part, if there is one, and the TaskCleared that are due by then."""
        while self:
            if self._open is None:
                waiting = self._waiting.popleft()
                if isinstance(waiting, TaskCleared):
                    self._send(waiting)
                    continue
                self._open = self._try_to_open(waiting)
            if self._open is not None and self._send_part(self._open):
                return

    def stop(self) -> None:
        """Nobody waits for files any more."""
        self._stopped = True
        if self._open is not None:
            self._open.close()
            self._open = None
        for waiting in self._waiting:
            if isinstance(waiting, TaskCleared):
                self._send(waiting)
        self._waiting.clear()

    def _survey(self) -> Iterator[str]:
        """Every artifact that may be there."""
        for folder, folders, files in os.walk(self._root):
            below = os.path.relpath(folder, self._root)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in list(folders):
                path = os.path.normpath(os.path.join(below, name))
                if os.path.islink(os.path.join(folder, name)):
                    folders.remove(name)
                    self._complain(path, _NO_FILE)
                elif below == _FOLDER_OF_FOLDERS or path in self._announced:
                    folders.remove(name)
                    yield path
            for name in sorted(files):
                full = os.path.join(folder, name)
                path = os.path.normpath(os.path.join(below, name))
                if name.startswith(".") or not os.path.lexists(full):
                    continue
                if os.path.isfile(full) and not os.path.islink(full):
                    yield path
                else:
                    self._complain(path, _NO_FILE)

    def _left_in_cwd(self) -> list[str]:
        """Every file that is new or changed where tasks start."""
        found, size_bytes = [], 0
        for folder, folders, files in os.walk(self._cwd):
            folders[:] = sorted(name for name in folders if name not in _NOBODYS)
            for name in sorted(files):
                full = os.path.join(folder, name)
                status = os.lstat(full)
                if stat.S_ISREG(status.st_mode) and status.st_ctime_ns > self._began_at:
                    found.append(os.path.join(_CWD, os.path.relpath(full, self._cwd)))
                    size_bytes += status.st_size
        if size_bytes <= _MOST_FROM_CWD_BYTES:
            return found
        self._send(
            AgentNote(
                "warning",
                f"tasks left {size_bytes >> 20} MiB in {len(found)} files in their working folder, which are not kept: "
                f"at most {_MOST_FROM_CWD_BYTES >> 20} MiB come back from there; what is to be kept belongs into "
                "$DISTRAIN_OUTPUT_DIR",
            )
        )
        return []

    def _try_to_open(self, path: str) -> _Artifact | None:
        """None: it is not there any more, has been sent as it is, or cannot be, which is then said."""
        root = self._root
        full = os.path.join(root, path)
        if path.startswith(_CWD + "/"):
            root = self._cwd
            full = os.path.join(root, path.removeprefix(_CWD + "/"))
        try:
            if os.path.realpath(full) != full or not full.startswith(root + "/"):
                self._complain(path, "it is not in the run's folder, or is a link")
                return None
            artifact = _Artifact(path, full)
        except (FileNotFoundError, _Vanishing):
            return None
        except OSError as error:
            many = error.errno == errno.EMFILE
            self._complain(path, "it has too many files to be sent at once" if many else str(error.strerror))
            return None
        except ValueError:
            self._complain(path, "that is no path")
            return None
        if not artifact.files or self._sent.get(path) == artifact.signature:
            artifact.close()
            return None
        return artifact

    def _send_part(self, artifact: _Artifact) -> bool:
        """False: there is none, as the artifact cannot be read to its end. A later one then begins without its end."""
        try:
            part = artifact.next_part()
        except OSError as error:
            self._complain(artifact.path, str(error.strerror))
            artifact.close()
            self._open = None
            return False
        if part.ends:
            self._sent[artifact.path] = artifact.signature
            self._open = None
        self._send(part)
        return True

    def _complain(self, path: str, why: str) -> None:
        shown = path.encode(errors="backslashreplace").decode()
        self._send(AgentNote("warning", f"{shown}, which a task left, does not come to the run directory: {why}"))


_Signature = tuple[tuple[str, int, int, int], ...]


class _Vanishing(Exception):
    """Somebody is removing or replacing it."""


@dataclass
class _File:
    path: str
    fd: int
    left_bytes: int
    executable: bool


class _Artifact:
    """The file or folder at `full`, all of its files opened.

    Raises:
        OSError: it is not there, or not all of it can be read.
        _Vanishing: it is changing.
    """

    def __init__(self, path: str, full: str) -> None:
        self.path = path
        self.files: deque[_File] = deque()
        self._begun = False
        found = []
        before = _listed(full)
        try:
            for relative in before:
                fd = os.open(os.path.join(full, relative) if relative else full, _HOW_TO_OPEN)
                status = os.fstat(fd)
                self.files.append(_File(relative, fd, status.st_size, bool(status.st_mode & 0o100)))
                found.append((relative, status.st_ino, status.st_size, status.st_mtime_ns))
            # Whoever removes a folder takes it away whole, or takes something out of it first.
            if _listed(full) != before:
                raise _Vanishing
        except BaseException:
            self.close()
            raise
        self.signature: _Signature = tuple(found)

    def next_part(self) -> FilePart:
        """The next of its bytes; after the last ones everything is closed.

        Raises:
            OSError: they cannot be read.
        """
        file = self.files[0]
        data = os.read(file.fd, min(PART_BYTES, file.left_bytes))
        file.left_bytes = file.left_bytes - len(data) if data else 0  # it may have been cut meanwhile
        ends_file = not file.left_bytes
        if ends_file:
            os.close(self.files.popleft().fd)
        begins, self._begun = not self._begun, True
        return FilePart(self.path, file.path, begins, ends_file, not self.files, file.executable, data)

    def close(self) -> None:
        while self.files:
            os.close(self.files.popleft().fd)


_HOW_TO_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def _listed(full: str) -> list[str]:
    """The regular files of an artifact: their paths within it, "" for the artifact itself. The rest is left out.

    Raises:
        OSError: it is not there, or cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    def is_file(path: str) -> bool:
        return stat.S_ISREG(os.lstat(path).st_mode)

    if is_file(full):
        return [""]
    return sorted(
        os.path.relpath(os.path.join(folder, name), full)
        for folder, _, names in os.walk(full, onerror=refuse)
        for name in names
        if is_file(os.path.join(folder, name))
    )
