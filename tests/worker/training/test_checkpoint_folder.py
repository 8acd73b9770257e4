"""The folder of checkpoints and the thread that fills it, without a training."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.telemetry import Events
from distrain.worker.training.checkpoint import Checkpoints, Snapshot, Writer


class Heard(Events):
    """Events that are kept."""

    def __init__(self) -> None:
        super().__init__(None)
        self.all: list[dict[str, Any]] = []

    def send(self, kind: str, **data: Any) -> None:
        self.all.append({"kind": kind, **data})

    @property
    def steps(self) -> list[int]:
        return [event["step"] for event in self.all if event["kind"] == "checkpoint"]

    @property
    def warnings(self) -> list[str]:
        return [event["message"] for event in self.all if event["kind"] == "note" and event["level"] == "warning"]


def snapshot(step: int, score: float | None = None, value: float = 1.0, size: int = 10) -> Snapshot:
    return Snapshot({"step": step, "score": score}, {"model/0": np.full(size, value, np.float32)}, 0.0)


def add(checkpoints: Checkpoints, step: int, score: float | None = None) -> None:
    checkpoints.write(snapshot(step, score))
    checkpoints.prune()


def names(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def heard() -> Heard:
    return Heard()


def writer_of(folder: Path, heard: Heard, *, keep: int = 3, keep_best: int = 0, finite_only: bool = True) -> Writer:
    return Writer(Checkpoints(folder, keep, keep_best), folder.parent, heard, finite_only=finite_only)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As with a full disk, a write fails in its middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_can_be_verified_with_the_standard_library(folder: Path) -> None:
    path = Checkpoints(folder, 3, 0).write(snapshot(7))
    about = json.loads((path / "checkpoint.json").read_text())
    assert (about["format"], about["step"]) == (2, 7)
    assert about["sha256"] == {"state.npz": hashlib.sha256((path / "state.npz").read_bytes()).hexdigest()}
    assert about["size_bytes"] == (path / "state.npz").stat().st_size


def test_the_newest_and_the_best_stay(folder: Path) -> None:
    scores = {1: 0.5, 2: 0.1, 3: None, 4: 0.3, 5: 0.1, 6: 0.4, 7: None}
    checkpoints = Checkpoints(folder, keep=2, keep_best=2)
    for step, score in scores.items():
        add(checkpoints, step, score)
    assert names(folder) == [2, 5, 6, 7], "of equally good ones, the later is the better"
    again = Checkpoints(folder, keep=2, keep_best=2, first_step=7)
    add(again, 8, 0.05)
    assert names(folder) == [5, 7, 8], "8 is both"


def test_those_beyond_the_place_to_go_on_from_go_with_the_first_new_one(folder: Path) -> None:
    before = Checkpoints(folder, keep=3, keep_best=1)
    for step in (10, 20, 30):
        add(before, step, 1 / step)
    (folder / "step-00000030" / "checkpoint.json").write_text("damaged")
    after = Checkpoints(folder, keep=3, keep_best=1, first_step=20)
    assert names(folder) == [10, 20, 30]
    add(after, 25)
    assert names(folder) == [10, 20, 25]
    add(after, 30)
    add(after, 35)
    assert names(folder) == [20, 25, 30, 35], "20 as the best"


def test_what_a_kill_has_left_is_removed_and_nothing_else(folder: Path) -> None:
    """Whoever was killed: a chief that wrote, an agent or a launcher that brought one, or either as it replaced one."""
    left = (".step-00000009.4711", ".gone-step-00000003.0b1f", ".step-00000009.01abcdef", ".step-00000009.01abcdef.old")
    others = (".mine", ".step-00000009", ".step-9.notes", "notes")
    for name in (*left, *others):
        (folder / name).mkdir(parents=True)
    (folder / left[0] / "state.npz").write_bytes(b"half")
    checkpoints = Checkpoints(folder, 3, 0)
    (folder / ".step-00000011.89abcdef").mkdir()
    add(checkpoints, 10)
    assert sorted(os.listdir(folder)) == sorted([*others, ".step-00000011.89abcdef", "step-00000010"])


def test_one_that_is_replaced_is_removed_when_the_other_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To remove gigabytes takes a while, in which a kill would leave neither."""
    checkpoints = Checkpoints(folder, 1, 0)
    add(checkpoints, 10)
    first = (folder / "step-00000010" / "state.npz").stat().st_ino
    rmtree, whole = shutil.rmtree, []

    def watched(path: Path, **options: Any) -> None:
        if path.exists():
            whole.append((folder / "step-00000010" / "state.npz").stat().st_ino)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    checkpoints.write(snapshot(10, value=2.0))
    checkpoints.prune()
    second = (folder / "step-00000010" / "state.npz").stat().st_ino
    assert whole == [second]
    assert second != first
    assert os.listdir(folder) == ["step-00000010"]


def test_an_old_one_that_cannot_be_removed_is_a_warning_and_is_tried_again(
    folder: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(folder, heard, keep=1)
    writer.submit(snapshot(1))
    writer.wait()

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors and path.exists():
            raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as context:
        context.setattr(shutil, "rmtree", refuse)
        writer.submit(snapshot(2))
        writer.wait()
    assert heard.steps == [1, 2]
    assert heard.all[-1]["kept"] == ["step-00000002"]
    (warning,) = heard.warnings
    assert warning.startswith("a checkpoint whose time is over could not be removed, and takes its space: ")
    writer.submit(snapshot(3))
    writer.wait()
    assert os.listdir(folder) == ["step-00000003"]


def test_a_newer_one_takes_the_place_of_one_that_waits(
    folder: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(folder, heard)
    writing, go_on = threading.Event(), threading.Event()
    write = Checkpoints.write

    def held(self: Checkpoints, snapshot: Snapshot) -> Path:
        writing.set()
        assert go_on.wait(30)
        return write(self, snapshot)

    monkeypatch.setattr(Checkpoints, "write", held)
    writer.submit(snapshot(1))
    assert writing.wait(30)
    for step in (2, 3, 4):
        writer.submit(snapshot(step))
    assert heard.steps == []
    go_on.set()
    writer.wait()
    assert heard.steps == [1, 4]
    assert heard.all[-1]["kept"] == ["step-00000001", "step-00000004"]
    assert heard.all[-1]["path"] == "checkpoints/step-00000004"


def test_a_full_disk_is_a_warning_and_the_next_one_is_tried(folder: Path, heard: Heard) -> None:
    writer = writer_of(folder, heard)
    writer.submit(snapshot(1))
    writer.wait()
    with files_of_at_most(50_000):
        writer.submit(snapshot(2, size=100_000))
        writer.wait()
    assert os.listdir(folder) == ["step-00000001"], "half a checkpoint is left"
    (warning,) = heard.warnings
    assert warning.startswith("the checkpoint of step 2 could not be written, and training goes on: ")
    writer.submit(snapshot(3, size=100_000))
    writer.wait()
    assert heard.steps == [1, 3]


def test_weights_that_are_not_finite_are_not_kept(folder: Path, heard: Heard) -> None:
    writer = writer_of(folder, heard)
    writer.submit(snapshot(1, value=float("nan")))
    writer.wait()
    writer.submit(snapshot(2, value=float("nan")))
    writer.wait()
    assert (writer.poisoned_step, heard.steps) == (1, []), "the first of them"
    careless = writer_of(folder, heard, finite_only=False)
    careless.submit(snapshot(2, value=float("inf")))
    careless.wait()
    assert heard.steps == [2]


def test_a_folder_outside_of_the_run_is_told_in_full(tmp_path: Path, heard: Heard) -> None:
    elsewhere = tmp_path / "shared" / "run-1"
    writer = Writer(Checkpoints(elsewhere, 1, 0), tmp_path / "run", heard, finite_only=True)
    writer.submit(snapshot(1))
    writer.wait()
    assert heard.all[0]["path"] == str(elsewhere / "step-00000001")


def test_an_error_of_ours_is_not_hidden_in_the_thread(folder: Path, heard: Heard) -> None:
    writer = writer_of(folder, heard)
    writer.submit(Snapshot({"step": 1, "score": None, "odd": object()}, {}, 0.0))
    with pytest.raises(TypeError, match="not JSON serializable"):
        writer.wait()


def test_an_error_of_ours_outlives_what_succeeds_after_it(
    folder: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(folder, heard)
    writing, go_on, written = threading.Event(), threading.Event(), threading.Event()
    prune = Checkpoints.prune
    write = Checkpoints.write

    def held(self: Checkpoints, snapshot: Snapshot) -> Path:
        writing.set()
        assert go_on.wait(30)
        return write(self, snapshot)

    def watched(self: Checkpoints) -> None:
        prune(self)
        written.set()

    monkeypatch.setattr(Checkpoints, "write", held)
    monkeypatch.setattr(Checkpoints, "prune", watched)
    writer.submit(Snapshot({"step": 1, "score": None, "odd": object()}, {}, 0.0))
    assert writing.wait(30)
    writer.submit(snapshot(2))
    go_on.set()
    assert written.wait(30)
    with pytest.raises(TypeError, match="not JSON serializable"):
        writer.wait()
    with pytest.raises(TypeError, match="not JSON serializable"):
        writer.wait()
