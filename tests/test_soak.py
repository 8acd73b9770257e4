"""A short soak: random kills, and the weights of a run without any."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

SOAK = Path(__file__).parents[1] / "scripts" / "soak.py"


@pytest.mark.timeout(300)
def test_random_kills_change_nothing_in_the_end(tmp_path: Path) -> None:
    words = ("--kills", "5", "--strategy", "MultiWorkerMirrored", "--epochs", "150", "--every", "500ms")
    soak = subprocess.Popen(
        [sys.executable, str(SOAK), *words, "--folder", str(tmp_path)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, error = soak.communicate(timeout=280)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it, and the launcher below it, whose agents end with that
            os.killpg(soak.pid, signal.SIGKILL)
        soak.wait()
    log = tmp_path / "log"
    assert soak.returncode == 0, error + (log.read_text() if log.is_file() else "")
    assert out.splitlines()[-1] == "5 kills, and every run ended as if there had been none"
