"""What far hosts leave becomes visible whole, private, in its place, and nowhere else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distrain.errors import DistrainError, HostError
from distrain.launcher.hosts.incoming import Incoming
from distrain.wire import FilePart


def parts(artifact: str, files: dict[str, bytes], size: int = 4, executable: bool = False) -> Iterator[FilePart]:
    """An artifact as an agent sends it, in pieces of `size` bytes."""
    for number, (path, data) in enumerate(files.items()):
        pieces = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
        for piece, content in enumerate(pieces):
            ends_file = piece == len(pieces) - 1
            yield FilePart(
                artifact,
                path,
                begins=number == piece == 0,
                ends_file=ends_file,
                ends=ends_file and number == len(files) - 1,
                executable=executable,
                data=content,
            )


def send(incoming: Incoming, artifact: str, files: dict[str, bytes], **options: bool) -> list[str | None]:
    return [incoming.take(part) for part in parts(artifact, files, **options)]  # type: ignore[arg-type]


def seen(run_dir: Path) -> dict[str, bytes]:
    """Every file that is there, hidden ones too."""
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.fixture
def chief(tmp_path: Path) -> Incoming:
    return Incoming(tmp_path, prefix="")


def test_a_file_becomes_visible_with_its_last_part(chief: Incoming, tmp_path: Path) -> None:
    *before, last = parts("model.keras", {"": b"0123456789"})
    for part in before:
        assert chief.take(part) is None
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert chief.take(last) == "model.keras"
    assert seen(tmp_path) == {"model.keras": b"0123456789"}
    assert (tmp_path / "model.keras").stat().st_mode & 0o777 == 0o600


def test_a_folder_becomes_visible_whole(chief: Incoming, tmp_path: Path) -> None:
    files = {"state.npz": b"123456789", "checkpoint.json": b"{}", "deep/er/empty": b""}
    *before, last = parts("checkpoints/step-00000200", files)
    for part in before:
        assert chief.take(part) is None
        assert not (tmp_path / "checkpoints" / "step-00000200").exists()
    assert chief.take(last) == "checkpoints/step-00000200"
    assert seen(tmp_path) == {f"checkpoints/step-00000200/{name}": data for name, data in files.items()}
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_run_bits_are_kept(chief: Incoming, tmp_path: Path) -> None:
    send(chief, "output/deep/start.sh", {"": b"#!"}, executable=True)
    assert (tmp_path / "output" / "deep" / "start.sh").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "output").stat().st_mode & 0o777 == 0o700


def test_other_hosts_have_a_place_of_their_own(chief: Incoming, tmp_path: Path) -> None:
    other = Incoming(tmp_path, prefix="from/me@host2")
    send(chief, "output/a", {"": b"chief"})
    assert send(other, "output/a", {"": b"other"})[-1] == "from/me@host2/output/a"
    send(other, "plan.json", {"": b"theirs"})
    assert seen(tmp_path) == {
        "output/a": b"chief",
        "from/me@host2/output/a": b"other",
        "from/me@host2/plan.json": b"theirs",
    }


@pytest.mark.parametrize("old", [{"": b"old"}, {"a": b"old", "b": b"old"}])
@pytest.mark.parametrize("new", [{"": b"new"}, {"a": b"new"}])
def test_a_later_one_replaces_the_earlier(
    chief: Incoming, tmp_path: Path, old: dict[str, bytes], new: dict[str, bytes]
) -> None:
    send(chief, "output/thing", old)
    send(chief, "output/thing", new)
    assert seen(tmp_path) == {"output/thing" + ("/" + name if name else ""): data for name, data in new.items()}
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["thing"]


def checkpoint(incoming: Incoming, step: int, data: bytes = b"x") -> None:
    send(incoming, f"checkpoints/step-{step:08d}", {"state.npz": data})


def checkpoints(run_dir: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run_dir / "checkpoints").glob("step-*"))


def test_those_that_the_chief_keeps_are_kept(chief: Incoming, tmp_path: Path) -> None:
    for step in (100, 200, 99999999, 100000000):
        checkpoint(chief, step)
    send(chief, "checkpoints/notes", {"": b"x"})
    chief.keep_only(["step-00000100", "step-00000200", "step-99999999", "step-100000000", "../output"])
    assert checkpoints(tmp_path) == [100, 200, 99999999, 100000000]
    chief.keep_only(["step-00000200", "step-100000000", "step-00000017"])
    assert checkpoints(tmp_path) == [200, 100000000]
    assert (tmp_path / "checkpoints" / "notes").exists()


def test_there_is_always_one_to_go_on_from(chief: Incoming, tmp_path: Path) -> None:
    checkpoint(chief, 100)
    checkpoint(chief, 200)
    chief.keep_only(["step-00000100", "step-00000200"])
    chief.keep_only(["step-00000300"])  # whose files are still on their way
    assert checkpoints(tmp_path) == [200]
    checkpoint(chief, 300)
    assert checkpoints(tmp_path) == [300]


def test_what_a_chief_on_a_new_host_never_had_stays(tmp_path: Path) -> None:
    """It was sent the newest alone: the best by score is here, and there no more."""
    for step in (100, 200, 300):
        checkpoint(Incoming(tmp_path, prefix=""), step)
    anew = Incoming(tmp_path, prefix="")
    anew.keep_only(["step-00000300", "step-00000400"])
    checkpoint(anew, 400)
    assert checkpoints(tmp_path) == [100, 200, 300, 400]
    anew.keep_only(["step-00000400", "step-00000500"])
    checkpoint(anew, 500)
    assert checkpoints(tmp_path) == [100, 200, 400, 500]


def test_one_that_comes_late_is_passed_over_in_time(chief: Incoming, tmp_path: Path) -> None:
    """A newer attempt has gone on from step 200, and is writing again what the older one sends only now."""
    for step in (100, 200):
        checkpoint(chief, step)
    newer = Incoming(tmp_path, prefix="")
    newer.keep_only(["step-00000200", "step-00000250"])
    checkpoint(newer, 250)
    checkpoint(chief, 300, b"old")
    assert checkpoints(tmp_path) == [100, 200, 250, 300]
    newer.keep_only(["step-00000250", "step-00000300"])
    checkpoint(newer, 300, b"new")
    assert checkpoints(tmp_path) == [100, 250, 300]
    assert (tmp_path / "checkpoints" / "step-00000300" / "state.npz").read_bytes() == b"new"


def test_an_artifact_that_never_ends_leaves_nothing(chief: Incoming, tmp_path: Path) -> None:
    *before, _ = parts("checkpoints/step-00000001", {"a": b"123456789", "b": b"123"})
    for part in before:
        chief.take(part)
    assert seen(tmp_path)
    send(chief, "output/b", {"": b"next"})
    assert seen(tmp_path) == {"output/b": b"next"}
    chief.take(next(parts("output/c", {"": b"123456789"})))
    chief.abandon()
    assert seen(tmp_path) == {"output/b": b"next"}


@pytest.mark.parametrize("name", ["-rf", "a b", "new\nline", "$(id)", "café", os.fsdecode(b"caf\xe9")])
def test_hostile_names_arrive(chief: Incoming, tmp_path: Path, name: str) -> None:
    send(chief, f"output/{name}", {"": b"1"})
    send(chief, f"checkpoints/{name}", {name: b"2"})
    assert seen(tmp_path) == {f"output/{name}": b"1", f"checkpoints/{name}/{name}": b"2"}


@pytest.mark.parametrize("path", ["/etc/passwd", "./plan.json", "../x", "output/../../x", "..", "a\0b"])
@pytest.mark.parametrize("where", ["artifact", "file"])
def test_nothing_is_written_elsewhere(tmp_path: Path, path: str, where: str) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    incoming = Incoming(run_dir, prefix="from/host2")
    artifact, files = (path, {"": b"x"}) if where == "artifact" else ("output", {path: b"x"})
    with pytest.raises(HostError, match=r"host2: it sent .* which would be written outside of the run directory"):
        send(incoming, artifact, files)
    assert seen(tmp_path) == {}


@pytest.mark.parametrize("name", ["", "."])
def test_something_without_a_name_is_refused(chief: Incoming, name: str) -> None:
    with pytest.raises(HostError, match="the chief's host: it sent"):
        send(chief, name, {"": b"x"})


def test_parts_out_of_order_are_refused(chief: Incoming) -> None:
    _, second, *_ = parts("a", {"": b"123456789"})
    with pytest.raises(HostError, match="out of order"):
        chief.take(second)


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "logs/worker-0.log",
        "events.jsonl",
        ".lock",
        "launcher.log",
        "stacks/x",
        "from/host2/x",
    ],
)
def test_the_launchers_own_files_are_not_replaced(chief: Incoming, tmp_path: Path, name: str) -> None:
    first, *rest = parts(name, {"": b"123456789"})
    with pytest.raises(DistrainError, match=r"is not kept: .* in a run directory is distrain's own; let the program"):
        chief.take(first)
    assert [chief.take(part) for part in rest] == [None, None], "it is told once"
    send(chief, "output/x", {"": b"1"})
    assert seen(tmp_path) == {"output/x": b"1"}


def test_a_place_that_is_taken_is_told_once_and_the_next_one_arrives(chief: Incoming, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file")
    first, *rest = parts("output/x", {"": b"123456789"})
    with pytest.raises(DistrainError, match=r"output/x of the chief's host cannot be kept in .*; free some space"):
        chief.take(first)
    assert [chief.take(part) for part in rest] == [None, None]
    assert send(chief, "model.keras", {"": b"m"})[-1] == "model.keras"


def test_a_full_disk_is_told_and_leaves_nothing_hidden(
    chief: Incoming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *before, last = parts("model.keras", {"": b"0123456789"})
    for part in before:
        chief.take(part)

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistrainError, match=r"model.keras .* \(No space left on device\); free some space there"):
        chief.take(last)
    assert seen(tmp_path) == {}
