"""How a run looks without a terminal, or with --plain: lines with time and task, and nothing that moves."""

from __future__ import annotations

import time as clock

from distrain.launcher.sinks.view import View
from distrain.launcher.sinks.words import PROGRESS_EVERY_S


class PlainFace:
    """`HH:MM:SS.mmm worker:0 | line`, in local time; distrain's own words are the lines of a task `distrain`."""

    progress_every_s: float | None = PROGRESS_EVERY_S
    refresh_s: float | None = None

    def prefix(self, time: float, who: str) -> bytes:
        whole, thousandths = divmod(round(time * 1000), 1000)
        return f"{clock.strftime('%H:%M:%S', clock.localtime(whole))}.{thousandths:03d} {who} | ".encode()

    def draw(self, lines: bytes, view: View) -> bytes:
        return lines

    def last(self, lines: bytes, account: tuple[str, ...]) -> bytes:
        return lines + "".join(f"{line}\n" for line in ("", *account) if account).encode(errors="replace")
