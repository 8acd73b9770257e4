"""What is said to which host, and which checkpoints are brought where. The connections are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distrain import wire
from distrain.errors import HostError
from distrain.job.cluster import place
from distrain.job.load import parse_job
from distrain.launcher.events import Event
from distrain.launcher.hosts import session
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.hosts.hosts import Hosts
from distrain.launcher.outset import Outset, Place
from distrain.launcher.runs.rundir import RunDir

WELCOME = wire.Welcome(wire.PROTOCOL, "host", 1, "3.11", 1, 1, 0, ("127.0.0.1",))


class FakeLink:
    """An agent that says what is in `inbox`, and takes what it is told into `sent`."""

    def __init__(self, host: str, *_: Any, **__: Any) -> None:
        self.host = host
        self.sent: list[wire.Message] = []
        self.inbox: list[wire.Message] = [WELCOME]
        self.is_low = True
        self.deadline: float | None = None
        self.heard_at = 0.0
        self.pid = 1

    def send(self, message: wire.Message) -> None:
        self.sent.append(message)

    def receive(self) -> list[wire.Message]:
        said, self.inbox = self.inbox, []
        return said

    def silence(self, until: float) -> None: ...

    def close(self) -> None: ...

    def told(self, kind: type[wire.Message]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    @property
    def artifacts(self) -> list[str]:
        return [part.artifact for part in self.told(wire.FilePart) if part.begins]


class Far:
    """Hosts named one, two…, with a worker on each, whose connections are open."""

    def __init__(self, folder: Path, *names: str) -> None:
        cluster = {"workers": len(names), "hosts": [{"host": name, "python": "python3"} for name in names]}
        keys = {"strategy": "MultiWorkerMirrored", "dataset": {"name": "digits", "batch_size": 60}, "cluster": cluster}
        job = parse_job(json.dumps({"name": "far", **keys, "elastic": {"min_workers": 1}}), "far.yaml")
        self.rundir = RunDir.create(folder, "far", now=0.0)
        self.placements = place(job)
        self.hosts = Hosts(Outset(job, self.rundir, open_bundle(), "python3", Place("/", ())), self.placements)
        assert list(self.hosts.tick()) == []
        for name in names:
            self.hear(name)

    def link(self, name: str) -> FakeLink:
        link = self.hosts._sessions[name].link
        assert isinstance(link, FakeLink)
        return link

    def hear(self, name: str, *messages: wire.Message) -> list[Event]:
        self.link(name).inbox += messages
        heard = list(self.hosts.hear(name))
        return [event for event in heard if isinstance(event, Event)]

    def send(self, checkpoint: Path) -> list[tuple[str, Any]]:
        return [(event.kind, event.data.get("hosts")) for event in self.hosts.send_checkpoint(checkpoint)]

    def kept(self, name: str, checkpoint: Path, error: str | None = None) -> list[tuple[str, Any]]:
        heard = self.hear(name, wire.FileKept(f"checkpoints/{checkpoint.name}", error))
        return [(event.kind, event.data.get("hosts")) for event in heard]

    def checkpoint(self, step: int, weights: str = "") -> Path:
        folder = self.rundir.path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.npz").write_text(weights)
        (folder / "checkpoint.json").write_text(json.dumps({"step": step, "sha256": weights}))
        return folder


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Far]:
    monkeypatch.setattr(session, "AgentLink", FakeLink)
    return lambda *names: Far(tmp_path, *names)


SENT = ("checkpoint_sent", None)


def test_each_host_is_asked_for_the_stacks_of_its_own_tasks(far: Any) -> None:
    run = far("one", "two", "three")
    run.hosts.ask_for_stacks(("worker:0", "worker:2"))
    asked = {name: run.link(name).told(wire.DumpStacks) for name in ("one", "two", "three")}
    assert asked == {"one": [wire.DumpStacks(("worker:0",))], "two": [], "three": [wire.DumpStacks(("worker:2",))]}


def test_what_was_sent_is_not_sent_again(far: Any) -> None:
    run = far("one", "two")
    ten = run.checkpoint(10)
    assert run.send(ten) == [("checkpoint_sending", ["one", "two"])]
    assert run.kept("one", ten) == [("checkpoint_sending", ["two"])]
    assert run.kept("two", ten) == [SENT]
    assert run.send(ten) == [SENT]
    assert run.link("one").artifacts == run.link("two").artifacts == ["checkpoints/step-00000010"]


def test_what_the_agent_confirms_is_progress(far: Any) -> None:
    run = far("one", "two")
    assert run.hear("one", wire.Pong(0)) == []
    run.send(run.checkpoint(10))
    (event,) = run.hear("one", wire.Pong(0))
    assert (event.kind, event.data["hosts"]) == ("checkpoint_sending", ["one", "two"])
    assert run.hear("one", wire.Pong(7)) == [], "the answer to a Ping says nothing of files"


def test_what_is_on_its_way_is_not_sent_twice(far: Any) -> None:
    """Of two hosts that receive, one is lost and comes back."""
    run = far("one", "two")
    ten = run.checkpoint(10)
    run.send(ten)
    run.hosts.open(["two"])
    assert list(run.hosts.tick()) == []
    run.hear("two")
    assert run.send(ten) == [("checkpoint_sending", ["one", "two"])]
    assert run.link("one").artifacts == ["checkpoints/step-00000010"]
    assert run.link("two").artifacts == ["checkpoints/step-00000010"]
    assert run.kept("one", ten) == [("checkpoint_sending", ["two"])]
    assert run.kept("two", ten) == [SENT]


def test_one_that_was_written_again_is_sent_again(far: Any) -> None:
    run = far("one", "two")
    for weights in ("old", "new"):
        ten = run.checkpoint(10, weights)
        run.send(ten)
        for name in ("one", "two"):
            run.kept(name, ten)
    assert [part.data for part in run.link("two").told(wire.FilePart) if part.path == "state.npz"] == [b"old", b"new"]


def test_one_that_is_damaged_there_is_sent_again(far: Any) -> None:
    run = far("one", "two")
    ten = run.checkpoint(10)
    run.send(ten)
    for name in ("one", "two"):
        run.kept(name, ten)
    said = {"why": "checkpoint", "path": "/somewhere/run/checkpoints/step-00000010", "message": "it is damaged"}
    run.link("two").inbox.append(wire.TaskEvent("worker:1", 2, 0.0, "failure", said))
    heard = list(run.hosts.hear("two"))
    assert [type(message) for message in heard] == [wire.TaskEvent], "and the run hears of it"
    assert run.send(ten) == [("checkpoint_sending", ["two"])]


def test_what_the_chief_wrote_it_has_until_it_writes_that_anew(far: Any) -> None:
    run = far("one", "two")
    about = json.dumps({"step": 10, "sha256": ""}).encode()
    part = {"begins": True, "ends_file": True, "ends": True, "executable": False}
    run.hear("one", wire.FilePart("checkpoints/step-00000010", "checkpoint.json", **part, data=about))
    ten = run.rundir.path / "checkpoints" / "step-00000010"
    assert run.send(ten) == [("checkpoint_sending", ["two"])]
    run.kept("two", ten)
    again = json.dumps({"step": 10, "sha256": "", "attempt": 2}).encode()
    run.hear("one", wire.FilePart("checkpoints/step-00000010", "checkpoint.json", **part, data=again))
    assert run.send(ten) == [("checkpoint_sending", ["two"])]


def test_what_the_chief_has_removed_is_sent_to_it_again(far: Any) -> None:
    run = far("one", "two")
    ten = run.checkpoint(10)
    run.send(ten)
    for name in ("one", "two"):
        run.kept(name, ten)
    said = {"path": "checkpoints/step-00000020", "step": 20, "seconds": 1.0, "kept": ["step-00000020"]}
    run.link("one").inbox.append(wire.TaskEvent("worker:0", 1, 0.0, "checkpoint", said))
    list(run.hosts.hear("one"))
    assert run.send(ten) == [("checkpoint_sending", ["one"])]


def test_a_host_that_cannot_keep_it_is_lost(far: Any) -> None:
    run = far("one", "two")
    ten = run.checkpoint(10)
    run.send(ten)
    assert run.kept("two", ten, "the disk is full") == [("host_lost", None)]
    assert run.kept("one", ten) == [SENT], "what comes next decides whether it is enough"


def test_with_all_tasks_on_one_host_no_address_is_asked_for(far: Any) -> None:
    """Such as after the others were given up; that host itself may be opened anew then."""
    run = far("one", "two")
    run.hosts.lay_out(run.placements[:1])
    run.hosts.open(["one"])
    list(run.hosts.tick())
    run.hear("one")
    run.hear("one", wire.PortsReserved((7000,)))
    assert list(run.hosts.addresses().values()) == ["127.0.0.1:7000"]


def test_an_unreadable_checkpoint_is_told_of(far: Any, tmp_path: Path) -> None:
    run = far("one", "two")
    with pytest.raises(HostError, match="cannot be sent"):
        run.hosts._sessions["one"].bring(tmp_path / "gone", "checkpoints")
