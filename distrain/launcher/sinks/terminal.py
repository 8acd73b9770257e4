"""Shows a run to people, on a stream whose reader may be slow, stopped or gone, without ever waiting for it.

The launcher's loop only appends to a queue that is bounded in bytes; a thread takes from it, folds, and writes. When
the queue is full the oldest output goes, counted, and the count is shown in its place. What it looks like is the
business of a `Face`.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import threading
import time as clock
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from distrain.launcher.events import Event
from distrain.launcher.sinks.fold import Folder, harmless
from distrain.launcher.sinks.lines import prefixed
from distrain.launcher.sinks.view import View
from distrain.launcher.sinks.words import Narrator, ending

TTY_LIMIT_BYTES = 2 * 1024 * 1024
FILE_LIMIT_BYTES = 32 * 1024 * 1024
CLOSE_PATIENCE_S = 3.0
_BATCH_BYTES = 1024 * 1024
_PIECE_BYTES = {"tty": 4096, "file": 65536, "text": 65536}
"""How much is written at a time."""
_ENTRY_BYTES = 200
"""What an entry of the queue costs beside its text, about."""


class Face(Protocol):
    """How things look: the prefix of a line, and the whole of what is written at a time. Called from one thread."""

    progress_every_s: float | None
    refresh_s: float | None
    """How often `draw` is called though nothing was printed. None: never."""

    def prefix(self, time: float, who: str) -> bytes: ...

    def draw(self, lines: bytes, view: View) -> bytes:
        """What to write to show `lines`, each with its newline, and what the run looks like now."""

    def last(self, lines: bytes, account: tuple[str, ...]) -> bytes:
        """What to write when nothing comes after. `account`: of the run's end, empty if it had none."""


@dataclass(slots=True)
class Entry:
    """`who` printed or, where `text` is None, ended. `words`: distrain's own, which are never dropped."""

    time: float
    who: str
    text: bytes | None
    words: bool = False
    notices_due: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.text or b"") + _ENTRY_BYTES


@dataclass
class Queue:
    """What waits to be shown, at most about `limit_bytes` of it. Not locked: the owner does that."""

    limit_bytes: int
    dropped_lines: int = 0
    held_bytes: int = 0
    _entries: deque[Entry] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.held_bytes += entry.size_bytes
        if self.held_bytes > self.limit_bytes:
            self._drop()

    def take(self, most_bytes: int) -> tuple[list[Entry], int]:
        """The oldest entries, about `most_bytes` of them, and how many lines are missing before them."""
        taken, taken_bytes = [], 0
        while self._entries and taken_bytes < most_bytes:
            entry = self._entries.popleft()
            taken_bytes += entry.size_bytes
            taken.append(entry)
        self.held_bytes -= taken_bytes
        dropped, self.dropped_lines = self.dropped_lines, 0
        return taken, dropped

    def _drop(self) -> None:
        """Down to three quarters of the limit at once, so that a stopped reader costs little more per entry.

        Words stay, up to a quarter of the limit: a run may be restarted for weeks in front of a stopped terminal.
        """
        kept: list[Entry] = []
        kept_bytes = 0
        while self._entries and self.held_bytes > self.limit_bytes * 3 // 4:
            entry = self._entries.popleft()
            if entry.words and kept_bytes + entry.size_bytes <= self.limit_bytes // 4:
                kept.append(entry)
                kept_bytes += entry.size_bytes
            else:
                self.held_bytes -= entry.size_bytes
                self.dropped_lines += (entry.text or b"").count(b"\n")
        self._entries.extendleft(reversed(kept))


class Terminal:
    """The sink for people. `place`: the run directory as the user would type it, for the account at the end. `view`:
    what has been, for one that is opened later.
    """

    def __init__(
        self,
        stream: TextIO,
        face: Face,
        *,
        place: str,
        view: View | None = None,
        limit_bytes: int | None = None,
        patience_s: float = CLOSE_PATIENCE_S,
    ) -> None:
        self._write_some, kind = _writer(stream)
        self._stream = stream  # keeps its file descriptor ours
        self._piece_bytes = _PIECE_BYTES[kind]
        self._pause_s = 0.1 if face.refresh_s else 0.02
        self._face = face
        self._place = place
        self._patience_s = patience_s
        self._view = view or View()
        self._narrator = Narrator(face.progress_every_s)
        self._folder = Folder()
        self._notices_told = False
        self._queue = Queue(limit_bytes or (TTY_LIMIT_BYTES if kind == "tty" else FILE_LIMIT_BYTES))
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        self._all_shown = False
        self._pieces_written = 0
        self._thread = threading.Thread(target=self._run, name="distrain-terminal", daemon=True)
        self._thread.start()

    # ---- in the launcher's loop

    def event(self, event: Event) -> None:
        self._view = self._view.after(event)
        words = self._narrator.tell(event, self._view)
        if event.kind in ("started", "task_failed", "run_ended") and not self._notices_told:
            self._put(Entry(event.time, "distrain", b"", words=True, notices_due=True))
        if words:
            text = "".join(f"{_harmless(line)}\n" for line in words)
            self._put(Entry(event.time, "distrain", text.encode(), words=True))
        if event.task is not None and event.kind in ("task_exited", "task_cleared"):
            self._put(Entry(event.time, event.task, None, words=True))

    def output(self, time: float, task: str, data: bytes) -> None:
        self._put(Entry(time, task, data))

    def tick(self, time: float) -> None:
        """The thread has a clock of its own."""

    def close(self) -> bool:
        """Waits while the reader takes something, and for a few seconds while it does not.

        False: not everything was written, and another write to the stream may never return.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        pieces, since = self._pieces_written, clock.monotonic()
        while self._thread.is_alive() and clock.monotonic() - since < self._patience_s:
            self._thread.join(0.05)
            if self._pieces_written != pieces:
                pieces, since = self._pieces_written, clock.monotonic()
        return self._all_shown

    def _put(self, entry: Entry) -> None:
        with self._changed:
            if self._ended:
                return
            self._queue.put(entry)
            self._changed.notify()

    # ---- in the thread

    def _run(self) -> None:
        try:
            self._show()
            self._all_shown = True
        except OSError:
            # Nobody reads any more: a closed pipe, a lost terminal. The run and its files go on.
            pass
        finally:
            with self._changed:
                self._ended = True

    def _show(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._queue) or self._closing, timeout=self._face.refresh_s)
                entries, dropped = self._queue.take(_BATCH_BYTES)
                over = self._closing and not len(self._queue)
            lines = self._lines(entries, dropped)
            if over:
                self._write(self._face.last(lines + self._unfinished(), self._account()))
                return
            self._write(self._face.draw(lines, self._view))
            with self._changed:
                # What comes meanwhile is handled in one go, and the threads take turns less often.
                self._changed.wait_for(self._urgent, timeout=self._pause_s)

    def _urgent(self) -> bool:
        return self._closing or self._queue.held_bytes >= _BATCH_BYTES

    def _account(self) -> tuple[str, ...]:
        if self._view.summary is None:
            return ()
        return tuple(_harmless(line) for line in ending(self._view, self._place))

    def _unfinished(self) -> bytes:
        now = clock.time()
        rest = self._folder.finish_all().items()
        return b"".join(prefixed(self._face.prefix(now, task), lines) for task, lines in rest)

    def _lines(self, entries: list[Entry], dropped: int) -> bytes:
        pieces = []
        if dropped:
            self._folder.forget_unfinished()
            now = entries[0].time if entries else clock.time()
            note = f"… {dropped:,} lines not shown; they are in logs/\n"
            pieces.append(prefixed(self._face.prefix(now, "distrain"), note.encode()))
        for entry in entries:
            if entry.notices_due:
                lines = self._notices()
            elif entry.words and entry.text is not None:
                lines = entry.text
            elif entry.text is None:
                lines = self._folder.finish(entry.who)
            else:
                lines = self._folder.feed(entry.time, entry.who, entry.text)
            if lines:
                pieces.append(prefixed(self._face.prefix(entry.time, entry.who), lines))
        return b"".join(pieces)

    def _notices(self) -> bytes:
        notices = self._folder.notices()
        if notices is None or self._notices_told:
            return b""
        self._notices_told = True
        return f"{notices}\n".encode()

    def _write(self, data: bytes) -> None:
        with memoryview(data) as view:
            start = 0
            while start < len(data):
                # Small steps while `close` watches for progress; large ones while the launcher is busy.
                most_bytes = min(self._piece_bytes, 4096) if self._closing else self._piece_bytes
                start += self._write_some(view[start : start + most_bytes])
                self._pieces_written += 1


def _writer(stream: TextIO) -> tuple[Callable[[memoryview], int], str]:
    """How to write some bytes to `stream`, and whether that is a "tty", a "file" (a pipe too) or only "text".

    Writes past the stream's own buffer: what sits in that would be written at exit, by a main thread that blocks.
    """
    try:
        fd = stream.fileno()
    except (OSError, AttributeError, io.UnsupportedOperation):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def write_text(data: memoryview) -> int:
            stream.write(decoder.decode(bytes(data)))
            stream.flush()
            return len(data)

        return write_text, "text"
    stream.flush()
    return lambda data: _write_fd(fd, data), "tty" if os.isatty(fd) else "file"


def _harmless(text: str) -> str:
    """Words may quote what a task said."""
    return harmless(text.encode(errors="replace")).decode()


def _write_fd(fd: int, data: memoryview) -> int:
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            # Whoever shares the terminal with us has made it non-blocking.
            select.select([], [fd], [])
