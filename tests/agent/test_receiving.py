"""What the launcher sends into a run's folder is there whole or not at all, private, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import peak_bytes

from distrain.wire import AgentEnding, FileKept, FilePart, Pong, RunOpened, TaskCleared

pytestmark = pytest.mark.processes

PART_BYTES = 1 << 18
CHECKPOINT = {"state.npz": bytes(range(256)) * 5000, "checkpoint.json": b"{}", "a/b": b"", "run": b"#!/bin/sh"}


def parts(artifact: str, files: Mapping[str, bytes]) -> list[FilePart]:
    found = []
    for path, data in files.items():
        for start in range(0, max(len(data), 1), PART_BYTES):
            ends_file = start + PART_BYTES >= len(data)
            ends = ends_file and path == list(files)[-1]
            block = data[start : start + PART_BYTES]
            found.append(FilePart(artifact, path, not found, ends_file, ends, path == "run", block))
    return found


def send(host: Host, artifact: str, files: Mapping[str, bytes]) -> FileKept:
    already = len(host.all(FileKept))
    for part in parts(artifact, files):
        host.link.send(part)
    host.until(lambda: len(host.all(FileKept)) > already, "an answer")
    assert len(host.all(FileKept)) == already + 1
    assert host.all(FileKept)[-1].artifact == artifact
    return host.all(FileKept)[-1]


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def far(open_host: Callable[..., Host], tmp_path: Path) -> Host:
    host = open_host(cache=tmp_path)
    host.open_run()
    return host


def run(host: Host) -> Path:
    return Path(host.wait_for(RunOpened).folder) / "run"


def test_a_folder_and_a_file_arrive_and_replace_what_is_there(far: Host) -> None:
    (run(far) / "checkpoints").mkdir()
    assert send(far, "checkpoints/step-1", {"": b"a file at first"}).error is None
    assert send(far, "checkpoints/step-1", CHECKPOINT).error is None
    assert send(far, "checkpoints/step-1", {"state.npz": b"2", **{f"other {n}": b"" for n in range(3)}}).error is None
    assert found(run(far)) == {f"checkpoints/step-1/{name}": b"" for name in ("other 0", "other 1", "other 2")} | {
        "checkpoints/step-1/state.npz": b"2"
    }
    assert send(far, "checkpoints/step-1", {"": b"and at last"}).error is None
    assert send(far, "deep/er/model.keras", {"": b"model"}).error is None
    assert found(run(far)) == {"checkpoints/step-1": b"and at last", "deep/er/model.keras": b"model"}


def test_everything_is_private(far: Host) -> None:
    assert send(far, "checkpoints/step-1", CHECKPOINT).error is None
    checkpoint = run(far) / "checkpoints" / "step-1"
    assert found(checkpoint) == CHECKPOINT
    for path in (checkpoint.parent, checkpoint, *checkpoint.rglob("*")):
        expected = 0o700 if path.is_dir() or path.name == "run" else 0o600
        assert path.stat().st_mode & 0o777 == expected, path


def test_nothing_is_seen_before_it_is_whole(far: Host) -> None:
    *before, last = parts("checkpoints/step-1", CHECKPOINT)
    for part in before:
        far.link.send(part)
    far.until(lambda: len(far.all(Pong)) == len(before), "each is answered: the launcher hears that we are here")
    assert not any(path.name == "step-1" for path in run(far).rglob("*"))
    assert not far.all(FileKept)
    far.link.send(last)
    far.wait_for(FileKept)
    assert found(run(far) / "checkpoints" / "step-1") == CHECKPOINT


def test_another_beginning_takes_the_place_of_what_was_not_ended(far: Host) -> None:
    far.link.send(parts("half", CHECKPOINT)[0])
    assert send(far, "whole", {"": b"x"}).error is None
    assert sorted(os.listdir(run(far))) == ["output", "whole"]


@pytest.mark.parametrize(
    ("artifact", "path"),
    [
        ("../up", ""),
        ("/tmp/distrain-never", ""),
        ("a/../../up", ""),
        ("", ""),
        (".", ""),
        ("a//b", ""),
        ("a\0b", ""),
        ("link/x", ""),
        ("fine", "../../up"),
        ("fine", "/tmp/distrain-never"),
    ],
)
def test_what_leads_out_is_refused(far: Host, tmp_path: Path, artifact: str, path: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run(far) / "link").symlink_to(elsewhere)
    kept = send(far, artifact, {path: b"x" * 3 * PART_BYTES})
    assert kept.error is not None
    assert "\n" not in kept.error
    assert "is not kept" in kept.error
    assert sorted(os.listdir(run(far))) == ["link", "output"]
    assert os.listdir(elsewhere) == []
    assert send(far, "fine", {"": b"x"}).error is None, "and the next is taken again"


def test_a_link_where_it_belongs_is_replaced_and_not_followed(far: Host, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (run(far) / "model.keras").symlink_to(tmp_path / "precious")
    assert send(far, "model.keras", {"": b"model"}).error is None
    assert (tmp_path / "precious").read_text() == "mine"
    assert (run(far) / "model.keras").read_bytes() == b"model"


def test_what_came_from_the_launcher_does_not_go_back(far: Host) -> None:
    for step in ("1", "2"):
        assert send(far, f"checkpoints/step-{step}", CHECKPOINT).error is None
    far.heard = [message for message in far.heard if not isinstance(message, FilePart)]
    far.run("open('checkpoints/step-2/checkpoint.json', 'w').write('other')", cwd=str(run(far)))
    far.cleared()
    assert {part.artifact for part in far.all(FilePart)} == {"checkpoints/step-2"}
    assert isinstance(far.heard[-1], TaskCleared)


def test_of_the_checkpoints_that_come_the_last_one_stays(far: Host) -> None:
    for step in ("1", "2", "3", "2"):
        assert send(far, f"checkpoints/step-{step}", {"state.npz": step.encode()}).error is None
        assert found(run(far)) == {f"checkpoints/step-{step}/state.npz": step.encode()}
        assert os.listdir(run(far) / "checkpoints") == [f"step-{step}"]
    assert send(far, "checkpoints/notes", {"": b"kept"}).error is None
    assert sorted(os.listdir(run(far) / "checkpoints")) == ["notes", "step-2"]


def test_a_checkpoint_that_a_task_has_written_stays(far: Host) -> None:
    """Also one that it has put in the place of one that came."""
    for step in ("1", "2"):
        assert send(far, f"checkpoints/step-{step}", {"state.npz": b"sent"}).error is None
    far.run(
        "import os\n"
        "for step in (2, 3):\n"
        "    os.mkdir('.new'); open('.new/state.npz', 'w').write('own')\n"
        "    if step == 2: os.rename('checkpoints/step-2', '.gone')\n"
        "    os.rename('.new', f'checkpoints/step-{step}')\n",
        cwd=str(run(far)),
    )
    far.cleared()
    assert send(far, "checkpoints/step-4", {"state.npz": b"sent"}).error is None
    there = found(run(far) / "checkpoints")
    assert there == {"step-2/state.npz": b"own", "step-3/state.npz": b"own", "step-4/state.npz": b"sent"}


def test_without_a_folder_of_its_own_the_host_keeps_nothing(host: Host) -> None:
    kept = send(host, "checkpoints/step-1", CHECKPOINT)
    assert "run directory itself" in str(kept.error)


def test_a_part_out_of_order_is_the_end(far: Host) -> None:
    far.link.send(parts("one", CHECKPOINT)[0])
    far.link.send(parts("other", CHECKPOINT)[1])
    far.wait_for(AgentEnding)


def test_a_full_disk_is_told_and_costs_no_more_than_this(open_host: Callable[..., Host], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    with contextlib.ExitStack() as undo:
        undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
        host = open_host(cache=folder)
        host.open_run()
        assert send(host, "checkpoints/step-1", {"state.npz": b"1"}).error is None
        kept = send(host, "checkpoints/step-1", {"state.npz": bytes(6 << 20), "checkpoint.json": b"{}"})
        assert "does not fit" in str(kept.error)
        assert "No space left" in str(kept.error)
        assert found(run(host)) == {"checkpoints/step-1/state.npz": b"1"}, "what was there stays"
        assert send(host, "checkpoints/step-2", {"state.npz": bytes(1 << 20)}).error is None


def test_a_large_file_costs_no_memory(far: Host) -> None:
    block = random.Random(0).randbytes(PART_BYTES)
    count = (150 << 20) // PART_BYTES
    for number in range(count):
        last = number == count - 1
        far.link.send(FilePart("large", "", number == 0, last, last, False, block))
        far.pump(0.0)
    assert far.wait_for(FileKept).error is None
    assert (run(far) / "large").stat().st_size == 150 << 20
    assert peak_bytes(far.agent_pid) < 60 << 20
