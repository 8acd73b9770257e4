"""Cuts a task's bytes into lines. Owns the unfinished last line of each task, and how long a line may get.

Works on whole chunks with the bytes methods, never a Python step per line: that is what makes it fast.
"""

from __future__ import annotations

from collections.abc import Callable

from distrain.launcher.runs.rundir import log_name

LONGEST_LINE_BYTES = 64 * 1024


class Lines:
    """Bytes of many tasks in, whole lines out.

    `tidy` rewrites the text of a task, which ends anywhere, before it is cut into lines. It must keep every newline
    and may be given the same unfinished line again. A line longer than `longest_bytes` is cut, with a note of where
    the whole is, so no more than that is ever held for a task.
    """

    def __init__(
        self, *, longest_bytes: int = LONGEST_LINE_BYTES, tidy: Callable[[bytes], bytes] | None = None
    ) -> None:
        self._longest_bytes = longest_bytes
        self._tidy = tidy
        self._held: dict[str, bytes] = {}
        self._skipping: set[str] = set()

    def feed(self, task: str, data: bytes) -> bytes:
        """The lines that `data` completes, each with its newline."""
        if task in self._skipping:
            newline = data.find(b"\n")
            if newline < 0:
                return b""
            self._skipping.discard(task)
            data = data[newline + 1 :]
        text = self._held.pop(task, b"") + data
        if self._tidy is not None:
            text = self._tidy(text)
        end = text.rfind(b"\n") + 1
        whole, held = text[:end], text[end:]
        if len(whole) > self._longest_bytes:
            whole = self._shortened(task, whole)
        if len(held) > self._longest_bytes:
            self._skipping.add(task)
            return whole + self._cut(task, held)
        if held:
            self._held[task] = held
        return whole

    def held(self, task: str) -> bytes:
        """The unfinished line of `task`."""
        return self._held.get(task, b"")

    def finish(self, task: str) -> bytes:
        """The unfinished line of `task`, as a line, and nothing is held any more."""
        self._skipping.discard(task)
        held = self._held.pop(task, b"")
        return held + b"\n" if held else b""

    def finish_all(self) -> dict[str, bytes]:
        """What `finish` gives, for every task that has an unfinished line."""
        return {task: self.finish(task) for task in list(self._held)}

    def _shortened(self, task: str, lines: bytes) -> bytes:
        pieces = []
        start = 0
        while len(lines) - start > self._longest_bytes:
            newline = lines.rfind(b"\n", start, start + self._longest_bytes + 1)
            if newline < 0:
                newline = lines.index(b"\n", start)
                pieces.append(self._cut(task, lines[start : start + self._longest_bytes]))
            else:
                pieces.append(lines[start : newline + 1])
            start = newline + 1
        pieces.append(lines[start:])
        return b"".join(pieces)

    def _cut(self, task: str, line: bytes) -> bytes:
        size = f"{self._longest_bytes // 1024} KiB" if self._longest_bytes >= 1024 else f"{self._longest_bytes} bytes"
        return line[: self._longest_bytes] + f" [distrain: cut at {size}; whole in {log_name(task)}]\n".encode()


def prefixed(prefix: bytes, lines: bytes) -> bytes:
    """`lines`, each of which ends with a newline, with `prefix` before every one."""
    if not lines:
        return b""
    return prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
