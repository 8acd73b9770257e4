"""The log files of a run: every byte of each task in its own, and all tasks' lines merged into one."""

from __future__ import annotations

import time as clock

from distrain.launcher.events import Event
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks.append import AppendFile, Warn, mend
from distrain.launcher.sinks.lines import Lines, prefixed


class LogFiles:
    """Writes `logs/<role>-<index>.log` and `logs/merged.log`.

    A line of `merged.log` is `<local time, ISO 8601 with milliseconds> <task> | <line>`, in the order in which the
    lines were complete. `warn` hears of trouble with the disk, once, and at the end of what was lost.
    """

    def __init__(self, rundir: RunDir, warn: Warn) -> None:
        self._rundir = rundir
        self._warn = warn
        self._warned = False
        self._logs: dict[str, AppendFile] = {}
        self._in_mid_line: set[str] = set()
        for task, path in rundir.task_logs().items():  # of a run that goes on
            mend(path, cut=False)
            self._log(task)
        mend(rundir.merged_log, cut=False)
        self._merged = AppendFile(rundir.merged_log, self._warn_once, _gap)
        self._lines = Lines()
        self._told_lost = False

    def output(self, time: float, task: str, data: bytes) -> None:
        self._log(task).write(data)
        (self._in_mid_line.discard if data.endswith(b"\n") else self._in_mid_line.add)(task)
        if lines := self._lines.feed(task, data):
            self._merge(time, task, lines)

    def event(self, event: Event) -> None:
        match event.kind:
            case "attempt_started" if event.attempt >= 2:
                for task, rest in self._lines.finish_all().items():
                    self._merge(event.time, task, rest)
                self._part(tuple(self._logs), event.time, f"attempt {event.attempt}")
            case "respawning" if event.task in self._logs:
                self._merge(event.time, event.task, self._lines.finish(event.task))
                self._part((event.task,), event.time, f"{event.task} again")
            case "task_exited" | "task_cleared" if event.task is not None:
                self._merge(event.time, event.task, self._lines.finish(event.task))
            case "run_ended":
                self._finish(event.time)

    def tick(self, time: float) -> None:
        for file in self._files:
            file.tick(time)

    def close(self) -> bool:
        self._finish(clock.time())
        whole = [file.close() for file in self._files]
        return all(whole)

    @property
    def _files(self) -> tuple[AppendFile, ...]:
        return (*self._logs.values(), self._merged)

    def _finish(self, time: float) -> None:
        for task, rest in self._lines.finish_all().items():
            self._merge(time, task, rest)
        for file in self._files:
            file.flush()
        lost = sum(file.lost_bytes for file in self._files)
        if lost and not self._told_lost:
            self._told_lost = True
            self._warn(f"{lost:,} bytes of output are missing in {self._rundir.logs}: the disk did not take them")

    def _merge(self, time: float, task: str, lines: bytes) -> None:
        self._merged.write(prefixed(f"{_iso(time)} {task} | ".encode(), lines))

    def _part(self, tasks: tuple[str, ...], time: float, what: str) -> None:
        """A line between what came before and what follows, at a margin also where a task has ended in mid-line."""
        line = f"---- {_iso(time)} {what} ----\n".encode()
        for task in tasks:
            self._logs[task].write(b"\n" + line if task in self._in_mid_line else line)
            self._in_mid_line.discard(task)
        self._merge(time, "distrain", line)

    def _log(self, task: str) -> AppendFile:
        log = self._logs.get(task)
        if log is None:
            log = self._logs[task] = AppendFile(self._rundir.log_file(task), self._warn_once, _gap)
        return log

    def _warn_once(self, sentence: str) -> None:
        """A full disk fails every file; one sentence is enough."""
        if not self._warned:
            self._warned = True
            self._warn(sentence)


def _gap(lost_bytes: int) -> bytes:
    return f"\n[distrain: {lost_bytes:,} bytes are missing here: the disk did not take them]\n".encode()


def _iso(time: float) -> str:
    whole, thousandths = divmod(round(time * 1000), 1000)
    return f"{clock.strftime('%Y-%m-%dT%H:%M:%S', clock.localtime(whole))}.{thousandths:03d}"
