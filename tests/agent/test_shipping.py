"""What tasks leave in the run's folder comes to the launcher: whole, in order, once, and in the way of nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent.driver import Host
from process_table import peak_bytes, wait_until

from distrain.errors import HostError
from distrain.wire import (
    AgentNote,
    FilePart,
    Goodbye,
    Message,
    RunOpened,
    StopTasks,
    TaskCleared,
    TaskEvent,
    TaskOutput,
)

pytestmark = pytest.mark.processes

SAY = (
    "import json, os, time\ndef say(kind, **data): os.write(3, json.dumps({'kind': kind, **data}).encode() + b'\\n')\n"
)


@dataclass
class Artifact:
    path: str
    files: dict[str, bytes] = field(default_factory=dict)
    executable: set[str] = field(default_factory=set)


def artifacts(heard: list[Message]) -> list[Artifact]:
    """What has arrived whole, in order; what breaks the rules of `wire.FilePart` fails the test."""
    whole: list[Artifact] = []
    artifact: Artifact | None = None
    held: dict[str, bytearray] = {}
    ended: set[str] = set()
    for part in heard:
        if not isinstance(part, FilePart):
            continue
        assert len(part.data) <= 1 << 20
        if part.begins:
            assert artifact is None
            artifact, held, ended = Artifact(part.artifact), {}, set()
        assert artifact is not None
        assert artifact.path == part.artifact
        assert part.path not in ended
        held.setdefault(part.path, bytearray()).extend(part.data)
        if part.executable:
            artifact.executable.add(part.path)
        if part.ends_file:
            ended.add(part.path)
        if part.ends:
            assert ended == set(held)
            artifact.files = {path: bytes(data) for path, data in held.items()}
            whole.append(artifact)
            artifact = None
    return whole


def paths(host: Host) -> list[str]:
    return [artifact.path for artifact in artifacts(host.heard)]


def held_open(pid: int) -> list[str]:
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return names


@pytest.fixture
def far(open_host: Callable[..., Host], tmp_path: Path) -> Host:
    host = open_host(cache=tmp_path)
    host.open_run()
    return host


def leave(host: Host, code: str, task: str = "worker:0", **options: object) -> None:
    host.run(SAY + code, task=task, cwd=str(run(host)), **options)


def run(host: Host) -> Path:
    return Path(host.wait_for(RunOpened).folder) / "run"


def test_all_that_is_new_comes_before_the_last_task_is_cleared(far: Host) -> None:
    leave(
        far,
        "os.makedirs('output/a b/c')\n"
        "open(b'output/a b/\\xff\\n', 'w').write('odd name')\n"
        "open('output/a b/c/large', 'wb').write(bytes(range(256)) * 10_000)\n"
        "open('output/empty', 'w')\n"
        "open('output/run me', 'w'); os.chmod('output/run me', 0o700)\n"
        "open('.hidden', 'w'); os.mkdir('.secret'); open('.secret/x', 'w'); open('output/.hidden', 'w')\n"
        "os.symlink('/etc/passwd', 'output/link'); os.mkfifo('output/pipe'); os.mkdir('nothing in it')\n"
        "os.symlink('/etc', 'etc')\n",
    )
    far.cleared()
    arrived = {artifact.path: artifact for artifact in artifacts(far.heard)}
    assert set(arrived) == {"output/a b/\udcff\n", "output/a b/c/large", "output/empty", "output/run me"}
    assert {path: artifact.files for path, artifact in arrived.items()} == {
        "output/a b/\udcff\n": {"": b"odd name"},
        "output/a b/c/large": {"": bytes(range(256)) * 10_000},
        "output/empty": {"": b""},
        "output/run me": {"": b""},
    }
    assert [path for path, artifact in arrived.items() if artifact.executable] == ["output/run me"]
    assert isinstance(far.heard[-1], TaskCleared)
    told = [note.message.partition(",")[0] for note in far.all(AgentNote)]
    assert sorted(told) == ["etc", "output/link", "output/pipe"], "what is left out is told"


def test_only_the_last_task_waits_and_only_what_has_changed_comes_again(far: Host) -> None:
    leave(far, "print('up', flush=True); time.sleep(600)", "worker:1")
    leave(far, "open('first', 'w').write('1'); open('second', 'w').write('2')")
    far.cleared("worker:0")
    assert paths(far) == []
    far.link.send(StopTasks((), 5.0))
    far.cleared("worker:1")
    assert paths(far) == ["first", "second"]
    leave(far, "open('second', 'w').write('22'); open('third', 'w')", attempt=2)
    far.cleared(attempt=2)
    assert paths(far)[2:] == ["second", "third"]


CHECKPOINT = (
    "def checkpoint(step, size=10):\n"
    "    os.makedirs(f'checkpoints/.{step}')\n"
    "    for name in ('state.npz', 'checkpoint.json'):\n"
    "        open(f'checkpoints/.{step}/{name}', 'wb').write(f'{step}{name}'.encode() * size)\n"
    "    os.rename(f'checkpoints/.{step}', f'checkpoints/step-{step}')\n"
    "    say('checkpoint', path=f'checkpoints/step-{step}', step=step)\n"
)


def test_a_checkpoint_and_the_model_come_when_their_task_says_so(far: Host) -> None:
    leave(
        far,
        CHECKPOINT + "open('part of the rest', 'w')\n"
        "checkpoint(1)\n"
        "open('model.keras', 'w').write('model'); say('model', path='model.keras')\n"
        "time.sleep(600)",
    )
    far.until(lambda: len(paths(far)) == 2, "checkpoint and model")
    checkpoint, model = artifacts(far.heard)
    assert checkpoint.path == "checkpoints/step-1"
    assert checkpoint.files == {"checkpoint.json": b"1checkpoint.json" * 10, "state.npz": b"1state.npz" * 10}
    assert (model.path, model.files) == ("model.keras", {"": b"model"})
    far.link.send(StopTasks((), 5.0))
    far.cleared()
    assert paths(far)[2:] == ["part of the rest"], "what has come does not come again"


def test_a_checkpoint_that_nobody_told_of_is_whole_all_the_same(far: Host) -> None:
    leave(far, CHECKPOINT.replace("    say(", "    (lambda *_, **__: None)(") + "checkpoint(1); checkpoint(2)")
    far.cleared()
    assert paths(far) == ["checkpoints/step-1", "checkpoints/step-2"]


def test_a_checkpoint_that_was_removed_while_it_was_sent_arrives_whole(far: Host) -> None:
    """The launcher reads nothing until the task has removed all but the last: those it was not yet at, it skips."""
    leave(
        far,
        CHECKPOINT + "import shutil\n"
        "for step in range(1, 5):\n"
        "    checkpoint(step, 1_000_000)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "for step in range(1, 4): shutil.rmtree(f'checkpoints/step-{step}')\n"
        "open('.gone', 'w')\n"
        "time.sleep(600)",
    )
    # The agent has read the first checkpoint in part when the pipe to us is full.
    wait_until(lambda: any("step-1/" in name for name in held_open(far.agent_pid)), 20.0, "the first is open")
    wait_until(lambda: (run(far) / "checkpoints" / "step-4").exists(), 20.0, "all are written")
    (run(far) / "go").touch()
    wait_until(lambda: (run(far) / ".gone").exists(), 20.0, "all but the last are removed")
    far.link.send(StopTasks((), 5.0))
    far.cleared()
    assert len(far.all(TaskEvent)) == 4
    arrived = artifacts(far.heard)
    assert [artifact.path for artifact in arrived] == ["checkpoints/step-1", "checkpoints/step-4", "go"]
    for artifact, step in zip(arrived, (1, 4), strict=False):
        for name in ("checkpoint.json", "state.npz"):
            assert artifact.files[name] == f"{step}{name}".encode() * 1_000_000
    assert not far.all(AgentNote)


def test_what_was_not_announced_stays_until_tasks_are_not_started_again(far: Host) -> None:
    """Not even the file that is being sent is waited for, and everything has come once at the end."""
    code = (
        "attempt = os.environ['ATTEMPT']\n"
        "checkpoint(attempt)\n"
        "open(f'log {attempt}', 'w').write(attempt); open('same', 'a').write(attempt)\n"
        "open(os.environ['CODE'] + '/left ' + attempt, 'w')\n"
        "print('up ' + attempt, flush=True); time.sleep(600)"
    )
    for attempt in (1, 2, 3):
        env = {"ATTEMPT": str(attempt), "CODE": str(run(far).parent / "code")}
        leave(far, CHECKPOINT + code, attempt=attempt, env=env)
        far.until_output(b"up %d" % attempt)
        far.link.send(StopTasks((), 5.0, again=attempt < 3))
        far.cleared(attempt=attempt)
        if attempt < 3:
            assert paths(far) == [f"checkpoints/step-{number}" for number in range(1, attempt + 1)]
    assert paths(far)[3:] == ["log 1", "log 2", "log 3", "same", "cwd/left 1", "cwd/left 2", "cwd/left 3"]
    assert [artifact.files for artifact in artifacts(far.heard) if artifact.path == "same"] == [{"": b"123"}]


def test_a_task_that_has_ended_before_the_others_are_stopped_does_not_hold_up_the_next_attempt(far: Host) -> None:
    """Its files are on their way already; those that nobody announced are broken off."""
    leave(far, CHECKPOINT + "checkpoint(1)\nopen('large', 'wb').truncate(50 << 30)")
    large = next(iter(run(far).parent.glob("run")), None)
    assert large is not None
    far.until(lambda: any(part.artifact == "large" for part in far.all(FilePart)), "its first part")
    assert not far.all(TaskCleared)
    far.link.send(StopTasks(("worker:0",), 0.0, again=True))
    far.cleared(attempt=1)
    far.heard = [message for message in far.heard if not isinstance(message, (FilePart, TaskCleared))]
    leave(far, "os.truncate('large', 3)", attempt=2)
    far.cleared(attempt=2)
    assert paths(far) == ["large"]


def test_if_no_task_is_started_again_after_all_the_rest_can_still_be_had(far: Host) -> None:
    leave(far, "open('log', 'w').write('x'); print('up', flush=True); time.sleep(600)")
    far.until_output(b"up")
    far.link.send(StopTasks((), 5.0, again=True))
    far.cleared()
    assert paths(far) == []
    far.link.send(StopTasks((), 0.0))
    far.until(lambda: len(far.all(TaskCleared)) == 2, "the same again")
    assert paths(far) == ["log"]
    assert isinstance(far.heard[-1], TaskCleared)


@pytest.mark.parametrize("path", ["../code/secret", "link", "link/passwd", ".", "", "a\0b", "\ud800", 7, ["x"], None])
def test_a_path_that_leads_out_is_not_sent(far: Host, path: object) -> None:
    (run(far).parent / "code" / "secret").write_text("secret")
    leave(far, f"os.symlink('/etc', 'link')\nsay('model', path=json.loads({json.dumps(path)!r}))\nopen('x', 'w')")
    far.cleared()
    assert paths(far) == ["x"]
    told = [note.message for note in far.all(AgentNote) if "no file at all" not in note.message]
    assert len(told) == isinstance(path, str)


def test_a_checkpoint_in_a_place_that_is_shared_stays_there_in_silence(far: Host, tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "step-1"
    leave(
        far,
        f"os.makedirs({str(shared)!r}); open({str(shared / 'state.npz')!r}, 'w')\n"
        f"say('checkpoint', path={str(shared)!r}, step=1)\nopen('x', 'w')",
    )
    far.cleared()
    assert paths(far) == ["x"]
    assert not far.all(AgentNote)
    assert [event.data["path"] for event in far.all(TaskEvent)] == [str(shared)]


def test_what_cannot_be_opened_is_told_and_keeps_nothing_from_the_others(
    open_host: Callable[..., Host], tmp_path: Path
) -> None:
    """With the agent allowed so few descriptors that a folder of many files cannot be opened whole."""
    host = open_host(cache=tmp_path)
    host.open_run()
    resource.prlimit(host.agent_pid, resource.RLIMIT_NOFILE, (200, 200))
    leave(
        host,
        "os.makedirs('checkpoints/many')\nfor n in range(300): open(f'checkpoints/many/{n}', 'w')\nopen('x', 'w')\n",
    )
    host.cleared()
    assert paths(host) == ["x"]
    (note,) = host.all(AgentNote)
    assert "checkpoints/many" in note.message
    assert "too many files" in note.message
    leave(host, "open('y', 'w')", attempt=2)
    host.cleared(attempt=2)
    assert paths(host) == ["x", "y"]


def test_a_large_file_costs_the_agent_no_memory_and_keeps_nobody_waiting(far: Host) -> None:
    size = 300 << 20
    block = random.Random(0).randbytes(1 << 20)
    leave(far, "print('go', flush=True)\nfor n in range(10_000): print(n, flush=True); time.sleep(0.002)", "worker:1")
    leave(
        far,
        f"import random; block = random.Random(0).randbytes(1 << 20)\n"
        f"with open('model.keras', 'wb') as f:\n    for _ in range({size >> 20}): f.write(block)\n"
        "say('model', path='model.keras')\n",
    )
    # What has arrived is counted and dropped: this process is not to hold it either.
    got = 0
    between = 0
    deadline = time.monotonic() + 60.0
    while got < size:
        assert time.monotonic() < deadline
        far.pump(0.1)
        for message in far.heard:
            if isinstance(message, FilePart):
                assert message.data == block
                got += len(message.data)
            between += isinstance(message, TaskOutput) and 0 < got < size
        far.heard = [message for message in far.heard if not isinstance(message, FilePart)]
    assert between > 10, "what a task prints comes between the parts"
    assert peak_bytes(far.agent_pid) < 60 << 20


@pytest.mark.parametrize("ending", ["a signal", "goodbye", "hang up", "lost contact"])
def test_an_end_does_not_wait_for_files(open_host: Callable[..., Host], tmp_path: Path, ending: str) -> None:
    host = open_host(cache=tmp_path)
    host.open_run(contact_timeout_s=2.0 if ending == "lost contact" else 60.0)
    leave(host, "open('large', 'wb').truncate(50 << 30)")  # a file of holes, that nobody could send in time
    host.until(lambda: host.all(FilePart), "the first part")
    if ending == "a signal":
        os.kill(host.agent_pid, signal.SIGINT)
        with pytest.raises(HostError, match="ended unexpectedly"):
            host.until(lambda: False, "the end", 15.0)
    elif ending == "goodbye":
        host.link.send(Goodbye())
        host.until(lambda: host.link.ended, "the end", 15.0)
    elif ending == "hang up":
        host.link.hang_up()
    assert bool(host.all(TaskCleared)) == (ending in ("a signal", "goodbye"))
    assert host.nothing_left(20.0) < 20.0


def test_on_the_launchers_own_machine_nothing_is_sent(host: Host, tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_text("model")
    host.run(SAY + "say('model', path='model.keras')", cwd=str(tmp_path))
    host.cleared()
    assert [event.kind for event in host.all(TaskEvent)] == ["model"]
    assert not host.all(FilePart)
