"""Which checkpoint a run goes on from: the newest that is whole, with a word for each that is not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distrain.errors import DistrainError
from distrain.job.spec import CheckpointSpec, JobSpec
from distrain.launcher.runs.checkpoints import choose, copy, folder_of
from distrain.launcher.runs.rundir import RunDir

JOB = JobSpec("a")
STATE = bytes(range(256)) * 20_000  # more than is read at a time


def write(folder: Path, step: int, **about: Any) -> Path:
    """A checkpoint as the chief writes it."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "state.npz").write_bytes(STATE)
    whole = {
        "format": 2,
        "step": step,
        "epoch": step // 100,
        "seed": 1,
        "attempt": 1,
        "steps_per_epoch": 100,
        "batch_size": 32,
        "workers": 2,
        "finished": False,
        "sha256": {"state.npz": hashlib.sha256(STATE).hexdigest()},
    }
    (path / "checkpoint.json").write_text(json.dumps({**whole, **about}))
    return path


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "a", now=1_790_000_000.0)


@pytest.fixture
def three(rundir: RunDir) -> list[Path]:
    return [write(rundir.path / "checkpoints", step) for step in (100, 250, 100_000_000)]


def test_there_may_be_none(rundir: RunDir) -> None:
    assert choose(rundir, JOB) == (None, ())


def test_the_newest_by_number_is_chosen(rundir: RunDir, three: list[Path]) -> None:
    found, damaged = choose(rundir, JOB)
    assert found is not None
    assert (found.path, found.name, found.step, damaged) == (three[2], "step-100000000", 100_000_000, ())


def test_before_a_step(rundir: RunDir, three: list[Path]) -> None:
    for before, step in ((100_000_000, 250), (251, 250), (250, 100)):
        found, _ = choose(rundir, JOB, before=before)
        assert found is not None
        assert (found.step, found.in_mid_epoch) == (step, step == 250)
    assert choose(rundir, JOB, before=100) == (None, ())


def test_hidden_ones_and_others_are_passed_over(rundir: RunDir, three: list[Path]) -> None:
    for name in (".step-200000000.1", "step-200000000.old", "notes"):
        three[0].rename(three[0].with_name(name))
        write(three[0].parent, 100)
    found, damaged = choose(rundir, JOB)
    assert found is not None
    assert (found.step, damaged) == (100_000_000, ())


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "state.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.npz").write_bytes(data)


def cut_short(path: Path) -> None:
    (path / "state.npz").write_bytes(STATE[:-1])


def rewrite(text: str) -> Any:
    return lambda path: (path / "checkpoint.json").write_text(text)


def change(**about: Any) -> Any:
    def changed(path: Path) -> None:
        file = path / "checkpoint.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **about}))

    return changed


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (flip_a_bit, "state.npz does not have the checksum that it was written with"),
        (cut_short, "state.npz does not have the checksum that it was written with"),
        (lambda path: (path / "state.npz").unlink(), "state.npz cannot be read (No such file or directory)"),
        (
            lambda path: (path / "checkpoint.json").unlink(),
            "checkpoint.json cannot be read (No such file or directory)",
        ),
        (rewrite('{"format": 2, "st'), "checkpoint.json is no JSON"),
        (rewrite(""), "checkpoint.json is no JSON"),
        (rewrite("[]"), "checkpoint.json is no JSON object"),
        (rewrite('{"format": 2, "step": 1}'), "checkpoint.json lacks 'epoch'"),
        (change(epoch=None), "checkpoint.json is odd"),
        (change(format=1), "it has the format 1, and this distrain reads 2"),
        (change(step=7), "checkpoint.json is of step 7"),
        (change(sha256={}), "checkpoint.json has no checksum of state.npz"),
        (change(sha256={"state.npz": "x", "../secret": "x"}), "state.npz does not have the checksum"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_taken(
    rundir: RunDir, three: list[Path], damage: Any, wrong: str
) -> None:
    damage(three[2])
    found, damaged = choose(rundir, JOB)
    assert found is not None
    assert found.step == 250
    (sentence,) = damaged
    assert sentence.startswith(f"the checkpoint step-100000000 is damaged: {wrong}")
    assert sentence.endswith("; step-00000250 is taken in its place")


def test_all_damaged(rundir: RunDir, three: list[Path]) -> None:
    for path in three:
        cut_short(path)
    found, damaged = choose(rundir, JOB)
    assert found is None
    assert [sentence.split()[2] for sentence in damaged] == ["step-100000000", "step-00000250", "step-00000100"]
    assert all(sentence.endswith("there is none before it, so training begins anew") for sentence in damaged)


def test_no_file_elsewhere_is_read(rundir: RunDir, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(STATE)
    digest = hashlib.sha256(STATE).hexdigest()
    write(rundir.path / "checkpoints", 100, sha256={"state.npz": digest, str(secret): digest})
    found, (sentence,) = choose(rundir, JOB)
    assert found is None
    assert f"checkpoint.json names a file elsewhere, '{secret}'" in sentence


def test_a_shared_folder_holds_one_per_run(rundir: RunDir, tmp_path: Path, three: list[Path]) -> None:
    job = replace(JOB, checkpoint=CheckpointSpec(every_steps=1, path=str(tmp_path / "shared")))
    assert folder_of(rundir, job) == tmp_path / "shared" / rundir.name
    write(tmp_path / "shared" / "other", 500)
    assert choose(rundir, job) == (None, ())
    write(tmp_path / "shared" / rundir.name, 300)
    found, _ = choose(rundir, job)
    assert found is not None
    assert found.step == 300


def test_a_copy_is_whole_and_private(rundir: RunDir, three: list[Path], tmp_path: Path) -> None:
    found, _ = choose(rundir, JOB)
    assert found is not None
    other = RunDir.create(tmp_path, "b", now=1_790_000_000.0)
    for _ in range(2):  # the second replaces the first
        copy(found, folder_of(other, JOB))
    copied, damaged = choose(other, JOB)
    assert copied is not None
    assert (copied.step, damaged) == (found.step, ())
    assert {path.stat().st_mode & 0o777 for path in copied.path.iterdir()} == {0o600}
    assert copied.path.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in copied.path.parent.iterdir()] == [found.name]


def test_a_copy_that_has_no_room_is_told(rundir: RunDir, three: list[Path], tmp_path: Path) -> None:
    found, _ = choose(rundir, JOB)
    assert found is not None
    (tmp_path / "file").write_text("")
    with pytest.raises(DistrainError, match=r"the checkpoint .* cannot be copied to .*/file/x: Not a directory; free"):
        copy(found, tmp_path / "file" / "x")
