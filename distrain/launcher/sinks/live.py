"""How a run looks on a terminal: log lines scroll, and below them stands a panel that is redrawn in place.

Owns the cursor. Each time, one write goes up to the panel's top, erases it, prints the new lines and the panel anew:
lines cost no more than in plain mode, and nothing flickers. The cursor is never hidden and always rests on the line
below the panel, so that a launcher that is killed leaves the terminal usable.
"""

from __future__ import annotations

import io
import os
import re
import time as clock
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console

from distrain.launcher.sinks.panel import panel
from distrain.launcher.sinks.view import View

_BEGIN, _END = b"\x1b[?2026h", b"\x1b[?2026l"
"""Terminals that know these show all between them at once; the others ignore them."""
_COLOURS = (36, 32, 35, 34, 33, 96, 92, 95)
_STYLE = re.compile(r"\x1b\[[\d;]*m")
_REDRAW_S = 0.2
_NARROW = 64


class LiveFace:
    """`terminal_size` is asked anew each time: windows get resized. Colour is as rich finds it (`NO_COLOR`, `TERM`)."""

    progress_every_s: float | None = None
    refresh_s: float | None = 0.5

    def __init__(self, terminal_size: Callable[[], os.terminal_size], *, now: Callable[[], float] = clock.time) -> None:
        self._terminal_size = terminal_size
        self._now = now
        self._console = Console(file=io.StringIO(), force_terminal=True, legacy_windows=False, highlight=False)
        self._coloured = self._console.color_system is not None and not self._console.no_color
        self._colours: dict[str, int] = {}
        self._panel: tuple[str, ...] = ()
        self._panel_at = 0.0
        self._panel_size = terminal_size()

    def prefix(self, time: float, who: str) -> bytes:
        at = clock.strftime("%H:%M:%S ", clock.localtime(time)) if self._panel_size.columns >= _NARROW else ""
        if not self._coloured:
            return f"{at}{who} | ".encode()
        if who == "distrain":
            return f"\x1b[2m{at}\x1b[0m\x1b[1m{who} |\x1b[0m ".encode()
        colour = self._colours.setdefault(who, _COLOURS[len(self._colours) % len(_COLOURS)])
        return f"\x1b[2m{at}\x1b[0m\x1b[{colour}m{who} |\x1b[0m ".encode()

    def draw(self, lines: bytes, view: View) -> bytes:
        size = self._terminal_size()
        erase = self._erase(size)
        now = self._now()
        if size != self._panel_size or not 0 <= now - self._panel_at < _REDRAW_S:
            self._panel_size, self._panel_at = size, now
            self._panel = self._render(view, size, now)
        return b"".join((_BEGIN, erase, lines, *(f"{row}\n".encode() for row in self._panel), _END))

    def last(self, lines: bytes, account: tuple[str, ...]) -> bytes:
        erase = self._erase(self._terminal_size())
        self._panel = ()
        rows = ["", self._headline(account[0]), *account[1:]] if account else []
        return erase + lines + "".join(f"{row}\n" for row in rows).encode(errors="replace")

    def _headline(self, line: str) -> str:
        """`<state>  <run>`, with the colour of how it ended."""
        if not self._coloured:
            return line
        state, run = line.split("  ", 1)
        colour = {"succeeded": 32, "failed": 31}.get(state, 33)
        return f"\x1b[1;{colour}m{state}\x1b[0m  {run}"

    def _render(self, view: View, size: os.terminal_size, now: float) -> tuple[str, ...]:
        if not view.name:
            return ()
        # The last column stays free: terminals differ in what a character there does to the cursor.
        width, rows = max(10, size.columns - 1), max(3, size.lines * 3 // 5)
        with self._console.capture() as captured:
            picture = panel(view, width=width, rows=rows, now=now)
            self._console.print(picture, width=width, crop=True)
        return tuple(captured.get().splitlines()[:rows])

    def _erase(self, size: os.terminal_size) -> bytes:
        """Up to where the panel begins, and away with all below."""
        if not self._panel:
            return b""
        # A terminal that became narrower has wrapped the rows that no longer fit.
        columns = max(1, size.columns)
        rows = sum(max(1, -(-cell_len(_STYLE.sub("", row)) // columns)) for row in self._panel)
        return f"\r\x1b[{rows}A\x1b[J".encode()
