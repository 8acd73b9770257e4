"""From a command on a host to a running agent: the handshake, the code cache, and what can go wrong with them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from agent.driver import Host

from distrain.errors import HostError
from distrain.job.cluster import LOCAL
from distrain.launcher.hosts.bundle import make_bundle, open_bundle
from distrain.launcher.hosts.link import AgentLink
from distrain.launcher.transports import open_transport
from distrain.wire import PROTOCOL, Goodbye, Message, ReservePorts, Welcome

pytestmark = pytest.mark.processes


@dataclass
class Through:
    """A transport that runs a shell program around the agent's command, which is `"$@"` there."""

    script: str

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["sh", "-c", self.script, "sh", *argv]

    def explain(self, argv: Sequence[str], exit_code: int | None, stderr: str, stdout: str | None) -> str | None:
        return "the known sentence" if "known trouble" in stderr else None


@pytest.fixture
def open_link(cache: Path) -> Iterator[Callable[..., AgentLink]]:
    links: list[AgentLink] = []

    def open_one(script: str = 'exec "$@"', **options: object) -> AgentLink:
        given = {"bundle": open_bundle(), "python": sys.executable, "cache": str(cache), **options}
        links.append(AgentLink("host7", Through(script), **given))  # type: ignore[arg-type]
        return links[-1]

    yield open_one
    for link in links:
        link.close(timeout_s=15.0)
        assert link.wait(5.0) is not None


def welcome(link: AgentLink, timeout_s: float = 20.0) -> Welcome:
    """Wait for the agent's first message."""
    heard: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while not heard:
        assert time.monotonic() < deadline
        select.select(list(link.interest()), (), (), 0.05)
        heard += link.receive()
    assert isinstance(heard[0], Welcome)
    return heard[0]


def refusal(link: AgentLink) -> str:
    with pytest.raises(HostError) as error:
        welcome(link)
    return str(error.value)


def test_welcome_tells_the_host(open_link: Callable[..., AgentLink]) -> None:
    told = welcome(open_link())
    assert told.protocol == PROTOCOL
    assert told.hostname == os.uname().nodename
    assert told.python == ".".join(map(str, sys.version_info[:3]))
    assert 1 <= told.cores <= len(os.sched_getaffinity(0))
    assert told.memory_bytes > 1 << 28


def test_the_same_files_make_the_same_bundle_anywhere(copied_package: Path, tmp_path: Path) -> None:
    bundle = make_bundle(copied_package)
    other = tmp_path / "elsewhere" / "distrain"
    shutil.copytree(copied_package, other)
    (other / "agent" / "__pycache__").mkdir()
    (other / "agent" / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"x")
    (other / "worker" / ".main.py.swp").write_bytes(b"x")
    (other / "launcher").mkdir()
    (other / "launcher" / "run.py").write_bytes(b"x")
    assert make_bundle(other) == bundle
    (other / "agent" / "main.py").write_bytes(b"x")
    assert make_bundle(other).digest != bundle.digest


def test_code_is_sent_once(open_link: Callable[..., AgentLink], tmp_path: Path) -> None:
    code = tmp_path / "distrain" / "code"
    welcome(open_link(cache=str(tmp_path)))
    (tree,) = code.iterdir()
    assert tree.name == open_bundle().digest
    assert tree.stat().st_mode & 0o777 == 0o700
    written = tree.stat().st_ctime_ns
    # A bundle that claims the same hash but holds other bytes: nobody asks for them.
    welcome(open_link(cache=str(tmp_path), bundle=replace(open_bundle(), data=b"never sent")))
    assert [entry.name for entry in code.iterdir()] == [tree.name]
    assert (code / tree.name / "distrain").is_dir()
    assert tree.stat().st_ctime_ns == written, "it was neither written anew nor replaced"


def test_the_cache_is_ours_alone_and_the_tasks_umask_as_it_was(
    open_link: Callable[..., AgentLink], tmp_path: Path
) -> None:
    before = os.umask(0o002)
    try:
        link = open_link(cache=str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    welcome(link)
    made = ("a", "a/b", "a/b/distrain", "a/b/distrain/code")
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in made] == [0o700] * 4
    status = Path(f"/proc/{link.pid}/status").read_text()
    assert "Umask:\t0002" in status.splitlines()


def test_noise_before_the_handshake_is_skipped(open_link: Callable[..., AgentLink]) -> None:
    link = open_link(
        'printf "Welcome to host7!\\nLast login: distrain-agent 1 have\\nno newline at the end"; exec "$@"'
    )
    welcome(link)


def test_noise_without_end_is_refused(open_link: Callable[..., AgentLink]) -> None:
    assert "start-up files" in refusal(open_link("exec yes a line of noise from a login"))


def test_code_that_arrives_damaged_is_refused(open_link: Callable[..., AgentLink], tmp_path: Path) -> None:
    bundle = replace(open_bundle(), data=open_bundle().data[:-1] + b"?")
    assert "damaged" in refusal(open_link(bundle=bundle, cache=str(tmp_path)))
    assert list((tmp_path / "distrain" / "code").iterdir()) == []


def _damage(tree: Path) -> None:
    (tree / "distrain" / "wire.py").write_text("raise SystemExit('damaged')")


def _cut(tree: Path) -> None:
    (tree / "distrain" / "agent" / "main.py").write_text("")


def _lose(tree: Path) -> None:
    (tree / "distrain" / "agent" / "tasks.py").unlink()


def _add(tree: Path) -> None:
    (tree / "json.py").write_text("raise SystemExit('shadowed')")


def _replace_by_a_file(tree: Path) -> None:
    shutil.rmtree(tree)
    tree.write_text("?")


@pytest.mark.parametrize("damage", [_damage, _cut, _lose, _add, _replace_by_a_file])
def test_damaged_code_in_the_cache_is_replaced(
    open_link: Callable[..., AgentLink], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    welcome(open_link(cache=str(tmp_path)))
    (tree,) = (tmp_path / "distrain" / "code").iterdir()
    damage(tree)
    welcome(open_link(cache=str(tmp_path)))
    welcome(open_link(cache=str(tmp_path), bundle=replace(open_bundle(), data=b"never sent")))
    assert [entry.name for entry in tree.parent.iterdir()] == [tree.name]


def test_agents_that_unpack_at_once_do_not_disturb_each_other(
    open_link: Callable[..., AgentLink], tmp_path: Path
) -> None:
    links = [open_link(cache=str(tmp_path)) for _ in range(6)]
    for link in links:
        welcome(link)
    assert [entry.name for entry in (tmp_path / "distrain" / "code").iterdir()] == [open_bundle().digest]


def _private_code(temporary: Path) -> list[Path]:
    return list(temporary.glob("distrain-code-*"))


@pytest.mark.parametrize("how", ["a file", "others may write", "others may write above", "no room"])
def test_without_a_usable_cache_the_code_is_kept_until_the_end(
    open_link: Callable[..., AgentLink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with contextlib.ExitStack() as undo:
        if how == "a file":
            cache.write_text("")
        elif how == "others may write":
            (cache / "distrain" / "code").mkdir(parents=True)
            (cache / "distrain" / "code").chmod(0o777)
        elif how == "others may write above":
            (cache / "distrain" / "code").mkdir(parents=True)
            (cache / "distrain").chmod(0o770)
        else:
            _small_disk(cache, undo)
        link = open_link(cache=str(cache))
        welcome(link)
        assert len(_private_code(temporary)) == 1
        link.send(Goodbye())
        link.close(timeout_s=15.0)
        assert link.wait(5.0) == 0
        assert _private_code(temporary) == []


def test_no_room_at_all_is_told_in_a_sentence(
    open_link: Callable[..., AgentLink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as undo:
        _small_disk(tmp_path / "full", undo)
        monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
        sentence = refusal(open_link(cache=str(tmp_path / "full")))
    assert sentence.startswith("host7: distrain's code")
    assert "No space left" in sentence
    assert str(tmp_path / "full") in sentence


def test_no_room_for_any_temporary_folder_tells_why(
    open_link: Callable[..., AgentLink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a byte is left in all places where Python would look for one."""
    if sys.prefix.startswith(("/tmp/", "/var/tmp/")):
        pytest.skip("the interpreter lies below a folder that this test hides")
    full = tmp_path / "full"
    with contextlib.ExitStack() as undo:
        _small_disk(full, undo)
        with contextlib.suppress(OSError), (full / "filled").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        monkeypatch.setenv("TMPDIR", "/tmp")
        hidden = f'for place in /var/tmp /tmp; do mount --bind {full} $place; done; cd /proc; exec "$@"'
        sentence = refusal(open_link(f"exec unshare -m sh -c '{hidden}' sh \"$@\"", cache="/dev/null"))
    assert "No space left" in sentence
    assert "cannot be stored in /tmp (" in sentence


def _small_disk(folder: Path, undo: contextlib.ExitStack) -> None:
    """Mount a disk of 64 KiB at `folder`."""
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk to fill")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)


def test_a_python_that_is_too_old_says_so(open_link: Callable[..., AgentLink]) -> None:
    have = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sentence = refusal(open_link(minimum_python=(99, 0)))
    assert sentence == f"host7: its Python is {have}, distrain needs 99.0 or newer there"


def test_a_python_that_is_not_there(open_link: Callable[..., AgentLink]) -> None:
    sentence = refusal(open_link(python="no-such-python"))
    assert sentence.startswith("host7: the agent could not be started (exit code 127)")
    assert "no-such-python" in sentence


def test_a_transport_that_is_not_there(cache: Path) -> None:
    with pytest.raises(HostError, match="local: /no/such/python cannot be started: No such file"):
        AgentLink("local", open_transport(LOCAL), open_bundle(), python="/no/such/python", cache=str(cache))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 9", "could not be started (exit code 9)"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("echo some trouble >&2; exit 255", "some trouble"),
        ("echo known trouble >&2; exit 255", "host7: the known sentence"),
        ("echo only noise; exit 1", "only noise"),
        ("printf '\\ndistrain-agent 1 begin\\n'; head -c 100 >/dev/null; exit 1", "exit code 1"),
        ("echo 'distrain-agent 2 have'", "update distrain"),
        ("echo 'distrain-agent 1 have'; echo and then some noise", "something else print"),
    ],
)
def test_a_start_that_fails_is_told_in_a_sentence(open_link: Callable[..., AgentLink], script: str, words: str) -> None:
    sentence = refusal(open_link(script))
    assert sentence.startswith("host7: ")
    assert words in sentence
    assert "Traceback" not in sentence


def test_a_host_that_does_not_answer(open_link: Callable[..., AgentLink]) -> None:
    assert "no answer within 0.3 s" in refusal(open_link("exec sleep 30", timeout_s=0.3))


def test_the_users_folder_and_environment_change_nothing(
    open_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's `json.py` in the working directory or on PYTHONPATH is for the tasks, not for the agent."""
    for name in ("json", "os", "signal", "distrain", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    host = open_host()
    host.start(["sh", "-c", "echo $PYTHONPATH"])
    host.cleared()
    assert host.output().decode().strip().split(":")[1:] == [str(tmp_path)]


def test_a_defect_of_the_agent_shows_its_traceback_and_leaves_nothing(
    open_host: Callable[..., Host], copied_package: Path
) -> None:
    main = copied_package / "agent" / "main.py"
    source = main.read_text()
    assert "self._ports.reserve(message.count, message.among, message.token)" in source
    main.write_text(source.replace("self._ports.reserve(message.count, message.among, message.token)", "1 / 0"))
    host = open_host(bundle=make_bundle(copied_package))
    host.run("import time; time.sleep(600)")
    host.link.send(ReservePorts(1))
    with pytest.raises(HostError, match="ZeroDivisionError"):
        host.until(lambda: False, "the end")
    assert host.processes() == []
