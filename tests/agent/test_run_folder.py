"""A run's folder on a host far away, and the user's code in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import peak_bytes, wait_until

from distrain.launcher.hosts.code import collect
from distrain.wire import AgentNote, CodePart, CodeWanted, Goodbye, OpenRun, Ping, Pong, RunOpened

pytestmark = pytest.mark.processes

HOSTILE = {
    b"--help": (b"f", b"x"),
    b"a b/$(touch pwned);'\"`\\": (b"f", b"shell"),
    b"empty": (b"f", b""),
    b"folder/none here": (b"d", b""),
    b"\xff\xfe not UTF-8/\n\t\r": (b"f", b"newline\0and NUL"),
    b"link": (b"l", b"folder"),
    b"nowhere": (b"l", b"folder/not there"),
    b"folder/up": (b"l", b"../run me"),
    b"run me": (b"x", b"#!/bin/sh\necho I run in $PWD\n"),
    "über/日本".encode(): (b"f", bytes(range(256)) * 10_000),
}


def packed(entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    """The format that `agent/code.py` describes."""
    return b"".join(
        b"%s\0%s\0%d\0%s" % (path, kind, len(content), content) for path, (kind, content) in sorted(entries.items())
    )


def found(folder: str) -> dict[bytes, tuple[bytes, bytes]]:
    """What is in `folder`, as the entries of a code."""
    entries: dict[bytes, tuple[bytes, bytes]] = {}
    for at, folders, files in os.walk(os.fsencode(folder)):
        assert os.stat(at).st_mode & 0o777 == 0o700
        for name in [*folders, *files]:
            path = os.path.join(at, name)
            relative = os.path.relpath(path, os.fsencode(folder))
            if os.path.islink(path):
                entries[relative] = b"l", os.readlink(path)
            elif os.path.isfile(path):
                kind = {0o600: b"f", 0o700: b"x"}[os.stat(path).st_mode & 0o777]
                entries[relative] = kind, Path(os.fsdecode(path)).read_bytes()
            elif not os.listdir(path):
                entries[relative] = b"d", b""
    return entries


def runs(cache: Path) -> list[str]:
    return sorted(entry.name for entry in (cache / "distrain" / "runs").iterdir() if entry.name != ".lock")


def kept(cache: Path) -> list[Path]:
    return [entry for entry in (cache / "distrain" / "code").iterdir() if entry.name.startswith("user-")]


@pytest.fixture
def far(open_host: Callable[..., Host], tmp_path: Path) -> Host:
    return open_host(cache=tmp_path)


def test_a_run_has_a_private_folder_until_the_end(far: Host, tmp_path: Path) -> None:
    opened = far.open_run(run="mnist-2026 $(x)/../y")
    assert opened.error is None
    folder = Path(opened.folder)
    assert folder.parent == tmp_path / "distrain" / "runs"
    assert folder.name.startswith("mnist-2026___x__.._y-")
    for path in (folder.parent, folder, folder / "code", folder / "run", folder / "run" / "output"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert not far.all(CodeWanted)
    code = "import os; os.makedirs('a/b'); open('a/b/c', 'w'); os.chmod('a/b', 0); os.chmod('a', 0o500)"
    far.run(code, cwd=str(folder / "code"))
    far.cleared()
    far.link.send(Goodbye())
    far.until(lambda: far.link.ended, "the end")
    assert runs(tmp_path) == []


@pytest.mark.parametrize("ending", ["agent", "guard", "hang up"])
def test_the_folder_goes_whatever_ends_the_agent(far: Host, tmp_path: Path, ending: str) -> None:
    folder = Path(far.open_run().folder)
    far.run("import os, time\nopen('held', 'w'); print('up', flush=True); time.sleep(600)", cwd=str(folder / "run"))
    far.until_output(b"up")
    if ending == "hang up":
        far.link.hang_up()
    else:
        os.kill(far.agent_pid if ending == "agent" else far.guard_pid, signal.SIGKILL)
    wait_until(lambda: runs(tmp_path) == [], 15.0, "the folder is removed")


def test_stale_folders_are_removed_and_living_ones_are_not(open_host: Callable[..., Host], tmp_path: Path) -> None:
    living, dead = open_host(cache=tmp_path), open_host(cache=tmp_path)
    lives, died = Path(living.open_run().folder), Path(dead.open_run().folder)
    (died / "run" / "left").write_text("x")
    elsewhere = died.parent / "of-another-machine"
    elsewhere.mkdir()
    (elsewhere / ".held").write_text("a node that shares this home")
    for pid in (dead.guard_pid, dead.agent_pid):
        os.kill(pid, signal.SIGKILL)
    dead.nothing_left()
    assert died.exists()
    new = Path(open_host(cache=tmp_path).open_run().folder)
    expected = sorted([elsewhere.name, lives.name, new.name])
    wait_until(lambda: runs(tmp_path) == expected, 10.0, "the stale folder is removed")
    assert (lives / "run").is_dir()


def test_hostile_names_run_bits_and_links_arrive(far: Host, tmp_path: Path) -> None:
    opened = far.open_run(packed(HOSTILE))
    assert opened.error is None
    assert far.all(CodeWanted)
    assert found(opened.folder + "/code") == HOSTILE
    (tree,) = kept(tmp_path)
    assert found(str(tree)) == HOSTILE
    far.start(["./run me"], cwd=opened.folder + "/code")
    far.cleared()
    assert far.output() == f"I run in {opened.folder}/code\n".encode()
    assert sorted(os.listdir(opened.folder)) == [".held", "code", "run"]


def test_what_the_launcher_collects_is_what_arrives(far: Host, tmp_path: Path) -> None:
    user = tmp_path / "user's folder"
    for path, (kind, content) in HOSTILE.items():
        place = Path(os.fsdecode(os.path.join(os.fsencode(user), path)))
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == b"l":
            os.symlink(content, os.fsencode(place))
        elif kind == b"d":
            place.mkdir()
        else:
            place.write_bytes(content)
            place.chmod(0o755 if kind == b"x" else 0o640)
    code = collect(user)
    assert code.digest == hashlib.sha256(code.data).hexdigest()
    opened = far.open_run(code.data)
    assert opened.error is None
    assert found(opened.folder + "/code") == HOSTILE


def test_code_is_asked_for_once_and_stays_as_it_came(open_host: Callable[..., Host], tmp_path: Path) -> None:
    first = open_host(cache=tmp_path)
    opened = first.open_run(packed(HOSTILE))
    first.run("open('empty', 'w').write('changed'); open('new', 'w')", cwd=opened.folder + "/code")
    first.cleared()
    second = open_host(cache=tmp_path)
    again = second.open_run(packed(HOSTILE))
    assert not second.all(CodeWanted)
    assert again.folder != opened.folder
    assert found(again.folder + "/code") == HOSTILE
    other = open_host(cache=tmp_path).open_run(packed({b"x": (b"f", b"other code")}))
    assert found(other.folder + "/code") == {b"x": (b"f", b"other code")}
    assert len(kept(tmp_path)) == 2


DAMAGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "run me").write_text("rm"),
    "run bit": lambda tree: (tree / "run me").chmod(0o600),
    "extra run bit": lambda tree: (tree / "empty").chmod(0o700),
    "mode": lambda tree: (tree / "empty").chmod(0o666),
    "folder's mode": lambda tree: (tree / "folder").chmod(0o777),
    "missing": lambda tree: (tree / "empty").unlink(),
    "added": lambda tree: (tree / "added").touch(mode=0o600),
    "link": lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("/etc")),
    "file for a link": lambda tree: ((tree / "link").unlink(), (tree / "link").write_text("folder")),
    "empty folder": lambda tree: (tree / "folder" / "none here").rmdir(),
    "pipe": lambda tree: os.mkfifo(tree / "pipe", 0o600),
    "a file": lambda tree: (shutil.rmtree(tree), tree.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_code_is_asked_for_again(open_host: Callable[..., Host], tmp_path: Path, damage: str) -> None:
    open_host(cache=tmp_path).open_run(packed(HOSTILE))
    (tree,) = kept(tmp_path)
    DAMAGES[damage](tree)
    second = open_host(cache=tmp_path)
    opened = second.open_run(packed(HOSTILE))
    assert second.all(CodeWanted)
    assert found(opened.folder + "/code") == HOSTILE
    assert kept(tmp_path) == [tree]
    assert found(str(tree)) == HOSTILE


@pytest.mark.parametrize(
    "entries",
    [
        {b"/tmp/absolute": (b"f", b"")},
        {b"../up": (b"f", b"")},
        {b"a/../../up": (b"f", b"")},
        {b"a//b": (b"f", b"")},
        {b"a/.": (b"d", b"")},
        {b"out": (b"l", b"/etc/passwd")},
        {b"out": (b"l", b"../../..")},
        {b"a/out": (b"l", b"../..")},
        {b"a/here": (b"l", b".."), b"out": (b"l", b"a/here/../x")},
        {b"in": (b"l", b"."), b"in/through": (b"f", b"")},
        {b"f": (b"f", b""), b"f/g": (b"f", b"")},
        {b"odd": (b"q", b"")},
    ],
    ids=lambda entries: "-".join(os.fsdecode(b"+".join(entries)).split("/")),
)
def test_what_leads_out_is_refused(far: Host, tmp_path: Path, entries: dict[bytes, tuple[bytes, bytes]]) -> None:
    opened = far.open_run(packed(entries))
    assert opened.error is not None
    assert "\n" not in opened.error
    assert "it is not unpacked" in opened.error
    assert kept(tmp_path) == []
    assert not far.all(AgentNote)


def test_code_that_arrives_damaged_is_refused(far: Host, tmp_path: Path) -> None:
    data = packed(HOSTILE)
    far.link.send(OpenRun("x", 60.0, hashlib.sha256(data).hexdigest(), len(data)))
    far.wait_for(CodeWanted)
    far.link.send(CodePart(data[:-1] + b"?"))
    assert "damaged" in str(far.wait_for(RunOpened).error)
    assert kept(tmp_path) == []


def test_a_full_disk_is_told_in_a_sentence(open_host: Callable[..., Host], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    with contextlib.ExitStack() as undo:
        undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
        small, large = (packed({b"data": (b"f", os.urandom(size))}) for size in (1_500_000, 6_000_000))
        for data in (small, large):
            host = open_host(cache=folder)
            error = host.open_run(data).error
            assert error is not None
            assert "does not fit" in error
            assert "No space left" in error
            assert str(folder) in error
            host.link.send(Goodbye())
            host.until(lambda host=host: host.link.ended, "the end")
        assert runs(folder) == []


def test_without_a_cache_the_run_has_a_temporary_folder(
    open_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    cache = tmp_path / "cache"
    cache.write_text("a file")
    host = open_host(cache=cache)
    opened = host.open_run(packed(HOSTILE))
    assert opened.folder.startswith(str(temporary))
    assert found(opened.folder + "/code") == HOSTILE
    host.link.send(Goodbye())
    host.until(lambda: host.link.ended, "the end")
    assert not os.path.exists(opened.folder)


def test_no_folder_anywhere_is_told_in_a_sentence(
    open_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "distrain").mkdir()
    (tmp_path / "distrain" / "runs").write_text("a file")
    (tmp_path / f"distrain-{os.geteuid()}").mkdir(mode=0o777)
    (tmp_path / f"distrain-{os.geteuid()}").chmod(0o777)
    error = open_host(cache=tmp_path).open_run().error
    assert error is not None
    assert "File exists" in error
    assert "others could write there" in error
    assert "XDG_CACHE_HOME" in error


def test_large_code_costs_the_agent_no_memory(far: Host) -> None:
    entries = {b"%d" % number: (b"f", os.urandom(1 << 20) * 30) for number in range(4)}
    opened = far.open_run(packed(entries))
    assert opened.error is None
    assert sorted(os.listdir(opened.folder + "/code")) == ["0", "1", "2", "3"]
    assert peak_bytes(far.agent_pid) < 60 << 20


def test_the_agent_answers_while_it_unpacks(far: Host) -> None:
    """The order in which things are said: nothing waits for the code to be in place."""
    data = packed({b"large": (b"f", bytes(50 << 20))})
    far.link.send(OpenRun("x", 60.0, hashlib.sha256(data).hexdigest(), len(data)))
    far.wait_for(CodeWanted)
    far.link.send(CodePart(data))
    far.link.send(Ping(7))
    far.wait_for(Pong, number=7)
    assert not far.all(RunOpened)
    assert far.wait_for(RunOpened).error is None


def test_the_code_of_long_ago_is_forgotten(open_host: Callable[..., Host], tmp_path: Path) -> None:
    codes = [packed({b"version": (b"f", b"%d" % number)}) for number in range(6)]
    for code in (*codes[:4], codes[0], *codes[4:]):
        assert open_host(cache=tmp_path).open_run(code).error is None
    kept = {path.name for path in tmp_path.rglob("user-*")}
    assert kept == {f"user-{hashlib.sha256(codes[number]).hexdigest()}" for number in (3, 0, 4, 5)}


def test_an_empty_code_is_a_code(far: Host) -> None:
    far.link.send(OpenRun("x", 60.0, hashlib.sha256(b"").hexdigest(), 0))
    opened = far.wait_for(RunOpened)
    assert opened.error is None
    assert os.listdir(opened.folder + "/code") == []
