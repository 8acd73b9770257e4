"""Where events and output of a run go: log files, records for programs, and a terminal.

`open_sinks` chooses; each sink is an `events.Sink`.
"""

from __future__ import annotations

import os
import time
from typing import TextIO

from distrain.launcher.events import Event, Sink
from distrain.launcher.runs.rundir import RunDir
from distrain.launcher.sinks.files import LogFiles
from distrain.launcher.sinks.plain import PlainFace
from distrain.launcher.sinks.records import Records
from distrain.launcher.sinks.terminal import Face, Terminal
from distrain.launcher.sinks.view import View


def open_sinks(rundir: RunDir, *, plain: bool, stream: TextIO | None) -> tuple[Sink, ...]:
    """The sinks of a run, in the order in which they must hear of things and be closed.

    `stream` is for people, as `open_terminal` has it; None: nobody looks. Trouble with the files is told there too, as
    events of kind `note`.
    """
    terminals = () if stream is None else (open_terminal(rundir, plain=plain, stream=stream),)

    def warn(sentence: str) -> None:
        event = Event(time.time(), "note", data={"level": "warning", "message": sentence})
        for sink in (records, *terminals):
            sink.event(event)

    records = Records(rundir, warn)
    return LogFiles(rundir, warn), records, *terminals


def open_terminal(rundir: RunDir, *, plain: bool, stream: TextIO, view: View | None = None) -> Terminal:
    """A sink for people: the live view where `stream` is a terminal, lines where it is not or where `plain` asks for
    them. `view`: the run until now, for one who comes later.
    """
    return Terminal(stream, _face(stream, plain=plain), place=rundir.typed, view=view)


def _face(stream: TextIO, *, plain: bool) -> Face:
    if plain or not stream.isatty() or os.environ.get("TERM") in (None, "", "dumb", "unknown"):
        return PlainFace()
    # rich takes a while to import, and only the live view needs it.
    from distrain.launcher.sinks.live import LiveFace

    fd = stream.fileno()
    return LiveFace(lambda: _size(fd))


def _size(fd: int) -> os.terminal_size:
    """A terminal that does not know its size, as on a serial line, says 0 or fails."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))
