"""The connection to an agent when it ends badly, is slow, or will not go. The agents are shell programs."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from process_table import wait_until

from distrain.errors import HostError
from distrain.launcher.hosts.bundle import open_bundle
from distrain.launcher.hosts.link import LOW_BYTES, AgentLink, close_all
from distrain.wire import PROTOCOL, AgentEnding, CodePart, Message, TaskOutput, Welcome, encode

pytestmark = pytest.mark.processes

WELCOME = Welcome(PROTOCOL, "host7", 1, "3.11.7", cores=4, memory_bytes=1 << 34, gpus=0, addresses=())
OUTPUT = TaskOutput("worker:0", 1, b"the last words")
ENDING = AgentEnding("the agent was ended by SIGTERM")


@dataclass
class Instead:
    """Runs a shell program in the agent's place."""

    script: str

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["sh", "-c", self.script]

    def explain(self, argv: Sequence[str], exit_code: int | None, stderr: str, stdout: str | None) -> str | None:
        return None


@dataclass
class Agents:
    """Starts links to shell programs, for which `says` is the command that prints the handshake and messages."""

    folder: Path
    links: list[AgentLink]

    def says(self, *messages: Message, more: bytes = b"") -> str:
        path = self.folder / f"said-{len(list(self.folder.iterdir()))}"
        path.write_bytes(f"distrain-agent {PROTOCOL} have\n".encode() + b"".join(map(encode, messages)) + more)
        return f"cat {path}"

    def gate(self) -> tuple[str, Callable[[], object]]:
        """A command that waits, and what ends its wait."""
        path = self.folder / f"gate-{len(list(self.folder.iterdir()))}"
        os.mkfifo(path)
        return f"read opened <{path}", lambda: path.write_text("now\n")

    def open(self, script: str, host: str = "host7") -> AgentLink:
        self.links.append(AgentLink(host, Instead(script), open_bundle(), python="python3"))
        return self.links[-1]


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    agents = Agents(tmp_path, [])
    yield agents
    for link in agents.links:
        link.close()
        if link.wait(0.0) is None:
            os.kill(link.pid, signal.SIGKILL)
            link.wait(5.0)


def pump(link: AgentLink, done: Callable[[], object], timeout_s: float = 20.0) -> list[Message]:
    """Receive until `done`."""
    heard: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        poll = select.poll()
        for fd, mask in link.interest().items():
            poll.register(fd, select.POLLOUT if mask == selectors.EVENT_WRITE else select.POLLIN)
        poll.poll(50)
        heard += link.receive()
    return heard


def welcomed(link: AgentLink) -> AgentLink:
    pump(link, lambda: link.welcome)
    return link


# ---- an end that is an error


@pytest.mark.parametrize(
    ("garbage", "words"),
    [(b"", r"host7: the agent ended unexpectedly \(exit code 3\)"), (b"x" * 99, "stream is broken")],
)
def test_what_arrived_before_an_error_is_told_before_it(agents: Agents, garbage: bytes, words: str) -> None:
    link = agents.open(f"{agents.says(WELCOME, OUTPUT, ENDING, more=garbage)}; exit 3")
    assert link.wait(20.0) == 3, "all that it said is there, with the end right behind"
    assert link.receive() == [WELCOME, OUTPUT, ENDING]
    assert link.interest() == {}, "nothing will wake up who waits,"
    assert link.deadline is not None
    assert link.deadline <= time.monotonic(), "so it is time to call again"
    with pytest.raises(HostError, match=words):
        link.receive()
    assert link.deadline is None
    assert link.receive() == [], "it is told once"


def test_an_error_with_nothing_before_it_is_told_at_once(agents: Agents) -> None:
    link = agents.open("exit 3")
    assert link.wait(20.0) == 3
    with pytest.raises(HostError, match="could not be started"):
        link.receive()


# ---- what waits, and what was heard


def test_it_is_low_while_little_waits_to_be_written(agents: Agents) -> None:
    gate, open_gate = agents.gate()
    link = welcomed(agents.open(f"{agents.says(WELCOME)}; {gate}; cat >/dev/null"))
    assert link.is_low
    for _ in range(4):
        link.send(CodePart(bytes(1 << 20)))
    assert not link.is_low
    assert selectors.EVENT_WRITE in link.interest().values()
    open_gate()
    pump(link, lambda: link.is_low)
    assert LOW_BYTES == 2 << 20
    link.hang_up()
    assert link.is_low


def test_heard_of_are_the_bytes_of_the_host_and_not_only_whole_messages(agents: Agents) -> None:
    gate, open_gate = agents.gate()
    half = agents.folder / "half"
    half.write_bytes(encode(OUTPUT)[:-3])
    link = welcomed(agents.open(f"{agents.says(WELCOME)}; echo printed >&2; {gate}; cat {half}; exec sleep 1000"))
    heard_at = link.heard_at
    assert heard_at <= time.monotonic()
    noted = pump(link, lambda: select.select(list(link.interest()), (), (), 0.2)[0] == [])
    assert link.heard_at == heard_at, f"ssh prints {noted} itself"
    open_gate()
    assert pump(link, lambda: link.heard_at > heard_at) == []


# ---- closing


def ended(link: AgentLink) -> int | None:
    return link.wait(0.0)


def test_many_silent_hosts_take_no_longer_than_one(agents: Agents) -> None:
    says = agents.says(WELCOME)
    links = [agents.open(f"trap '' TERM; {says}; exec sleep 1000") for _ in range(20)]
    for link in links:
        welcomed(link)
    began = time.monotonic()
    close_all(links, 1.0)
    took_s = time.monotonic() - began
    assert [ended(link) for link in links] == [-signal.SIGKILL] * 20
    assert 1.0 <= took_s < 4.0, "one second to leave, half a second to obey, and the rest is for a busy machine"


def test_those_that_leave_are_waited_for_no_longer_than_they_take(agents: Agents) -> None:
    links = [welcomed(agents.open(f"{agents.says(WELCOME)}; cat >/dev/null; exit 5")) for _ in range(3)]
    began = time.monotonic()
    close_all(links, 60.0)
    assert time.monotonic() - began < 30.0
    assert [ended(link) for link in links] == [5, 5, 5]


def test_one_that_never_said_welcome_is_ended_at_once(agents: Agents) -> None:
    link = agents.open("exec sleep 1000")
    began = time.monotonic()
    link.close(60.0)
    assert time.monotonic() - began < 30.0
    assert ended(link) == -signal.SIGTERM


@pytest.mark.parametrize(("first", "killed_by"), [("", signal.SIGTERM), ("trap '' TERM; ", signal.SIGKILL)])
def test_a_stopped_connection_is_ended(agents: Agents, first: str, killed_by: signal.Signals) -> None:
    link = welcomed(agents.open(f"{first}{agents.says(WELCOME)}; exec sleep 1000"))
    os.kill(link.pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{link.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", 5.0)
    link.close()
    assert ended(link) == -killed_by


def test_on_this_machine_the_guard_is_not_killed(agents: Agents) -> None:
    """It ends when nothing is left, and kills an agent that hangs. Who would do that in its place?"""
    gate, open_gate = agents.gate()
    link = welcomed(agents.open(f"trap '' TERM; {agents.says(WELCOME)}; {gate}; exit 5", host="local"))
    link.close()
    assert ended(link) is None
    open_gate()
    assert link.wait(20.0) == 5


def test_descriptors_above_those_that_select_can_watch(agents: Agents) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"only {hard} descriptors are allowed here")
    with contextlib.ExitStack() as undo:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (fd := os.open(os.devnull, os.O_RDONLY)) < 1024:
            undo.callback(os.close, fd)
        undo.callback(os.close, fd)
        link = welcomed(agents.open(f"{agents.says(WELCOME)}; cat >/dev/null; exit 5"))
        assert min(link.interest()) > 1023
        link.close(20.0)
        assert link.wait(5.0) == 5
