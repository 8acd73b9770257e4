"""The loop's care for its sinks."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrain.job.spec import JobSpec
from distrain.launcher.events import Event
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.loop import Loop
from distrain.launcher.outset import Outset, Place
from distrain.launcher.runs.rundir import RunDir


class Ledger:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def event(self, event: Event) -> None:
        self.kinds.append(event.kind)

    def output(self, time: float, task: str, data: bytes) -> None: ...

    def tick(self, time: float) -> None: ...

    def close(self) -> bool:
        return True


class Broken(Ledger):
    def event(self, event: Event) -> None:
        super().event(event)
        raise KeyError("a defect")


def test_a_defect_in_one_sink_is_shown_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, ledger = Broken(), Ledger()
    rundir = RunDir.create(tmp_path, "job", now=0.0)
    outset = Outset(JobSpec("job"), rundir, open_bundle(), "python3", Place("/", ()))
    loop = Loop(outset, (broken, ledger), None, began=0.0)
    loop._tell("note", data={"message": "one"})
    loop._tell("note", data={"message": "two"})
    assert (broken.kinds, ledger.kinds) == (["note"], ["note", "note"])
    assert "KeyError: 'a defect'" in capsys.readouterr().err
