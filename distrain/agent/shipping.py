"""Sends what tasks leave: which files, in which order, and what has been sent already.

A checkpoint or the model goes when its task says that it is complete; all else that is new or changed when the last
task has ended, whose TaskCleared waits for it, unless tasks will be started again: then it stays for later. That is
what is in their run directory, and, if it is not too much, what they left where they started, which arrives in a folder
`cwd`. Files are read a part at a time, as the caller finds room for them, and are held open from before their first
part is sent: what is removed meanwhile arrives whole all the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterator

from distrain.agent.artifact import Artifact, Signature, Vanishing
from distrain.wire import AgentNote, Message, TaskCleared, TaskEvent

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
        self._rest: deque[str | TaskCleared] = deque()
        """What goes after all that waits: whatever was not announced, and the TaskCleared that it keeps."""
        self._open: Artifact | None = None
        self._at_rest = False
        """Whether what is open is of the rest."""
        self._again = False
        self._owing: TaskCleared | None = None
        """The one that went without the rest."""
        self._last: TaskCleared | None = None
        """The one after which there was no task left."""
        self._announced: set[str] = set()
        self._sent: dict[str, Signature] = {}
        self._stopped = False

    def __bool__(self) -> bool:
        """Whether something waits for room."""
        return self._open is not None or bool(self._waiting) or bool(self._rest)

    def task_starts(self) -> None:
        """Whatever changes from now on is a task's doing."""
        self._again, self._last = False, None
        if self._tasks_left() or self._owing is not None:
            return  # and so is what has changed before, which is still to be sent
        with tempfile.TemporaryFile(dir=self._root) as mark:
            self._began_at = os.fstat(mark.fileno()).st_ctime_ns  # by the file system's own clock

    def pass_on(self, message: Message) -> None:
        """A task says something: note what it means for files, and send it, or keep it until they are sent."""
        if isinstance(message, TaskCleared) and not self._stopped and not self._tasks_left():
            self._last = message
            if self._again:
                self._owing = message
                self._waiting.append(message)
            else:
                self._collect(message)
            return
        self._send(message)
        if isinstance(message, TaskEvent) and message.kind in _ANNOUNCING and not self._stopped:
            path = message.data.get("path")
            if isinstance(path, str) and not os.path.isabs(path):  # that is a place of the user's, which stays there
                self._announced.add(os.path.normpath(path))
                self._waiting.append(os.path.normpath(path))

    def advance(self) -> None:
        """Send one part, if there is one, and the TaskCleared that are due by then."""
        while self:
            if self._open is None:
                self._at_rest = not self._waiting
                waiting = (self._waiting or self._rest).popleft()
                if isinstance(waiting, TaskCleared):
                    self._send(waiting)
                    continue
                self._open = self._try_to_open(waiting)
            if self._open is not None and self._send_part(self._open):
                return

    def stop(self) -> None:
        """Nobody waits for files any more."""
        self._stopped = True
        self._break_off()
        for waiting in (*self._waiting, *self._rest):
            if isinstance(waiting, TaskCleared):
                self._send(waiting)
        self._waiting.clear()
        self._rest.clear()

    def tasks_stop(self, again: bool) -> None:
        """The tasks are to end, and `again`: to be started once more. What has not been announced waits for the last
        time that they end.
        """
        before, self._again = self._again, again
        if again:
            if self._at_rest:
                self._break_off()
            for waiting in self._rest:
                if isinstance(waiting, TaskCleared):
                    self._owing = waiting
                    self._waiting.append(waiting)
            self._rest.clear()
        elif self._stopped or self._tasks_left():
            return
        elif self._owing is not None:
            self._collect(self._owing)
        elif before and self._last is not None:  # nothing was kept back, which the launcher cannot know
            self._rest.append(self._last)

    def came(self, path: str) -> None:
        """The launcher has sent the artifact `path`: it does not go back as it is."""
        with contextlib.suppress(OSError, Vanishing):
            artifact = Artifact(path, os.path.join(self._root, path))
            artifact.close()
            self._sent[path] = artifact.signature

    def _break_off(self) -> None:
        """What is open is not sent to its end, which a later one's beginning tells."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _collect(self, cleared: TaskCleared) -> None:
        self._owing = None
        self._rest += [*self._survey(), *self._left_in_cwd(), cleared]

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

    def _try_to_open(self, path: str) -> Artifact | None:
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
            artifact = Artifact(path, full)
        except (FileNotFoundError, Vanishing):
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

    def _send_part(self, artifact: Artifact) -> bool:
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
