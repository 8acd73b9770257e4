"""However a run ends, no process of it is left on any host, and nobody else's is touched."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netlab.lab import Inhabitant, Lab
from netlab.launch import Launch
from netlab.programs import STAYS_UNTIL, WAITS
from process_table import wait_until

CONTACT_S = 2
TASKS = ("worker:0", "worker:1", "worker:2")
HOSTS = "host1:2,host2"


@pytest.fixture
def strangers(lab: Lab) -> Iterator[tuple[int, ...]]:
    """Other people's processes on the hosts, which must be there in the end."""
    with lab.running("host1", "sleep", "1000") as one, lab.running("host2", "sleep", "1000") as other:
        yield one.pid, other.pid
        assert (one.poll(), other.poll()) == (None, None)


@pytest.fixture
def waiting(lab: Lab, launch: Callable[..., Launch], user: Path, strangers: tuple[int, ...]) -> Launch:
    """Three tasks on two hosts, which wait with two stubborn children each."""
    (user / "waits.py").write_text(WAITS)
    run = launch("--workers", HOSTS, "waits.py", sets=(f"cluster.contact_timeout_s={CONTACT_S}",))
    run.wait_for("waits", *TASKS)
    return run


def agent(run: Launch, task: str) -> int:
    """The agent above a task: its parent."""
    pid = next(event["pid"] for event in run.events if event["kind"] == "task_started" and event["task"] == task)
    return parent(pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def message(run: Launch) -> str:
    return str(run.summary["first_failure"]["message"])


def test_success_and_failure(lab: Lab, launch: Callable[..., Launch], user: Path, strangers: tuple[int, ...]) -> None:
    (user / "stays.py").write_text(STAYS_UNTIL)
    for ending, exit_code in ((), 0), (("worker:1=7",), 1):
        run = launch("--workers", HOSTS, "stays.py", "/root/go", *ending)
        run.wait_for("stays", *TASKS)
        for host in ("host1", "host2"):
            (lab.home(host) / "go").touch()
        run.wait(exit_code)
        lab.none_left(but=strangers, timeout_s=1)
        for host in ("host1", "host2"):
            (lab.home(host) / "go").unlink()
    first = run.summary["first_failure"]
    assert (first["task"], first["host"], first["exit_code"]) == ("worker:1", "host1", 7)


def test_ctrl_c(lab: Lab, waiting: Launch, strangers: tuple[int, ...]) -> None:
    waiting.interrupt()
    waiting.wait(130)
    lab.none_left(but=strangers, timeout_s=1)
    assert waiting.summary["state"] == "stopped"


def test_sigkill_of_the_launcher(lab: Lab, waiting: Launch, strangers: tuple[int, ...]) -> None:
    waiting.launcher.kill()
    waiting.launcher.wait()
    lab.none_left(but=strangers, timeout_s=15)
    wait_until(lambda: not waiting.processes(), 5, "no ssh left here")


def test_sigkill_of_an_ssh(lab: Lab, waiting: Launch, strangers: tuple[int, ...]) -> None:
    os.kill(waiting.connection("host2"), signal.SIGKILL)
    waiting.wait(3)
    assert message(waiting).startswith("host2: ")
    assert "ssh was killed by SIGKILL" in message(waiting)
    lab.none_left(but=strangers, timeout_s=15)


@pytest.mark.parametrize("who", ["agent", "guard", "both"])
def test_sigkill_on_a_host(lab: Lab, waiting: Launch, strangers: tuple[int, ...], who: str) -> None:
    its_agent = agent(waiting, "worker:2")
    its_guard = parent(its_agent)
    killed = {"agent": [its_agent], "guard": [its_guard], "both": [its_guard, its_agent]}[who]
    if who == "both":  # neither may live for the moment in which it would end the rest
        for pid in killed:
            os.kill(pid, signal.SIGSTOP)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    waiting.wait(3)
    assert message(waiting).startswith("host2: ")
    if who == "both":
        # Nobody is left there who could know of what left its task's session.
        for each in lab.processes("host2"):
            if each.pid not in strangers:
                assert "signal.pause" in each.command
                os.kill(each.pid, signal.SIGKILL)
    lab.none_left(but=strangers, timeout_s=15)


def ours(lab: Lab, host: str, strangers: tuple[int, ...]) -> list[Inhabitant]:
    """What is on the host but for strangers and sshd's half of a connection, which cannot know that it is cut."""
    return [each for each in lab.processes(host) if each.pid not in strangers and not each.command.startswith("sshd")]


def test_a_network_cut(lab: Lab, waiting: Launch, strangers: tuple[int, ...]) -> None:
    lab.cut("host2")
    waiting.wait(3)
    assert message(waiting).startswith(f"host2: nothing has been heard from it for {CONTACT_S} s")
    lab.none_left("host1", but=strangers, timeout_s=1)
    wait_until(lambda: not ours(lab, "host2", strangers), 15, "nothing left on the host that was cut off")
    lab.mend("host2")
    lab.none_left(but=strangers, timeout_s=30)


def test_a_frozen_host(lab: Lab, waiting: Launch, strangers: tuple[int, ...]) -> None:
    lab.freeze("host2")
    waiting.wait(3)
    assert message(waiting).startswith(f"host2: nothing has been heard from it for {CONTACT_S} s")
    lab.none_left("host1", but=strangers, timeout_s=1)
    lab.thaw("host2")
    lab.none_left(but=strangers, timeout_s=15)


def test_a_launcher_that_is_stopped_for_long(lab: Lab, waiting: Launch, strangers: tuple[int, ...]) -> None:
    """Ctrl-Z: the hosts lose contact and end; the launcher finds that out when it goes on."""
    os.kill(waiting.launcher.pid, signal.SIGSTOP)
    lab.none_left(but=strangers, timeout_s=20)
    os.kill(waiting.launcher.pid, signal.SIGCONT)
    waiting.wait(3)


def test_two_runs_at_once(
    lab: Lab, launch: Callable[..., Launch], user: Path, waiting: Launch, strangers: tuple[int, ...]
) -> None:
    (user / "stays.py").write_text(STAYS_UNTIL)
    other = launch("--workers", HOSTS, "stays.py", "/root/go")
    other.wait_for("stays", *TASKS)
    before = {each.pid for each in lab.processes()}
    waiting.interrupt()
    waiting.wait(130)
    others = {each.pid for each in lab.processes()} - set(strangers)
    assert others
    assert others < before
    assert {each["pid"] for each in other.events if each["kind"] == "task_started"} < others
    for host in ("host1", "host2"):
        (lab.home(host) / "go").touch()
    other.wait(0)
    assert all("leaves" in other.log(task) for task in TASKS)
    lab.none_left(but=strangers, timeout_s=1)


def test_a_run_that_is_stopped_while_its_hosts_are_opened(
    lab: Lab, launch: Callable[..., Launch], user: Path, strangers: tuple[int, ...]
) -> None:
    (user / "waits.py").write_text(WAITS)
    run = launch("--workers", HOSTS, "waits.py")
    wait_until(lambda: [each for each in lab.processes("host1") if each.pid not in strangers], 20, "somebody on host1")
    run.interrupt()
    run.wait(130)
    lab.none_left(but=strangers, timeout_s=5)


def test_nothing_of_a_run_stays_in_the_files(lab: Lab, waiting: Launch) -> None:
    """The run's own folder is gone; what is kept is code, by its hash."""

    def folders() -> list[str]:
        found = subprocess.run(
            ["find", str(lab.home("host1")), str(lab.path("host1", "/tmp")), "-name", "waits.py"],
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.split()

    assert len(folders()) == 2, "the stored copy, and the run's"
    waiting.interrupt()
    waiting.wait(130)
    (kept,) = folders()
    assert "/.cache/distrain/code/" in kept
