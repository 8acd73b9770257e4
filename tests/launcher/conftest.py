"""Runs with toy tasks, ended and cleared away after each test whatever it found; and a clock that shows UTC."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_run import ToyRun


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def toy_run(tmp_path: Path) -> Iterator[Any]:
    runs: list[ToyRun] = []

    def start(*args: Any, **env: Any) -> ToyRun:
        runs.append(ToyRun(tmp_path, *args, **env))
        return runs[-1]

    yield start
    for run in runs:
        run.close()
