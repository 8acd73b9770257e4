"""A short soak: random kills, and the weights of a run without any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

SOAK = Path(__file__).parents[1] / "scripts" / "soak.py"


@pytest.mark.timeout(300)
def test_random_kills_change_nothing_in_the_end(tmp_path: Path) -> None:
    words = ("--kills", "5", "--strategy", "MultiWorkerMirrored", "--epochs", "150", "--every", "500ms")
    done = subprocess.run(
        [sys.executable, str(SOAK), *words, "--folder", str(tmp_path)],
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
    )
    log = tmp_path / "log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.is_file() else "")
    assert done.stdout.splitlines()[-1] == "5 kills, and every run ended as if there had been none"
