"""Makes docs/terminal.svg, the picture in the README: a real run in a real terminal, caught while it trains.

Usage: .venv/bin/python scripts/picture.py   (needs tmux)
"""

from __future__ import annotations

import io
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 104, 20
CAUGHT_AT = "epoch 14/"
PATIENCE_S = 120.0


def main() -> None:
    server = ("tmux", "-L", f"picture-{uuid.uuid4().hex[:8]}", "-f", "/dev/null")
    with tempfile.TemporaryDirectory() as folder:
        command = (
            f"cd {folder} && clear && exec {ROOT}/.venv/bin/distrain run {ROOT}/configs/quickstart.yaml"
            " --set training.epochs=30"
        )
        size = ("-x", str(WIDTH), "-y", str(HEIGHT))
        subprocess.run(
            [*server, "new-session", "-d", *size, "env", "TERM=tmux-256color", "sh", "-c", command], check=True
        )
        try:
            screen = caught(server)
        finally:
            subprocess.run([*server, "send-keys", "C-c"], check=True)
            deadline = time.monotonic() + PATIENCE_S
            while subprocess.run([*server, "has-session"], capture_output=True).returncode == 0:
                if time.monotonic() > deadline:
                    raise SystemExit("the run does not end")
                time.sleep(0.1)
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ distrain run configs/quickstart.yaml", style="bold"))
    console.print(Text.from_ansi(screen.rstrip()))
    console.save_svg(str(ROOT / "docs" / "terminal.svg"), title="distrain")


def caught(server: tuple[str, ...]) -> str:
    """The screen, colours and all, once it shows what is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        screen = subprocess.run(
            [*server, "capture-pane", "-p", "-e"], check=True, capture_output=True, text=True
        ).stdout
        if CAUGHT_AT in Text.from_ansi(screen).plain:
            return screen
        time.sleep(0.05)
    raise SystemExit(f"{CAUGHT_AT!r} did not appear within {PATIENCE_S:g} s; the screen shows:\n{screen}")


if __name__ == "__main__":
    main()
