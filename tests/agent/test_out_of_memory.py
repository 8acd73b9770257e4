"""A task that the kernel kills for want of memory is told from one that somebody killed."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent.driver import Host

from distrain.agent import out_of_memory
from distrain.agent.out_of_memory import KernelsWord, Killed, counting_file, killed, kills_counted
from distrain.launcher.hosts.bundle import make_bundle
from distrain.wire import StopTasks

IN_GROUP = (
    "3,1201,24309354590,-;Memory cgroup out of memory: Killed process 627 (python3) total-vm:81112kB, "
    "anon-rss:69928kB, file-rss:4260kB, shmem-rss:0kB, UID:0 pgtables:200kB oom_score_adj:0\n SUBSYSTEM=memory\n"
)
BOTH = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
CONTAINER = "700 690 0:32 /docker/4f1e /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n"
HOG = "import time\nheld = []\nwhile True: held.append(bytearray(1 << 20)); time.sleep(0.0005)\n"
LIMIT_BYTES = 160 << 20


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (IN_GROUP, Killed(627, True, 69928 * 1024)),
        (
            "3,7,8,-;Out of memory: Killed process 41 (a b) (x) total-vm:9kB, anon-rss:3072kB",
            Killed(41, False, 3 << 20),
        ),
        ("4,7,8,-;Out of memory: Killed process 41 (old)", Killed(41, False, None)),
        ("6,7,8,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=python3,pid=627,uid=0", None),
        ("6,7,8,-;host3: left promiscuous mode", None),
    ],
)
def test_the_kernels_log(record: str, found: Killed | None) -> None:
    assert killed(record) == found


def test_what_is_told_of_it() -> None:
    assert str(killed(IN_GROUP)) == (
        "out of memory: the kernel killed it, with 68 MiB resident, as its control group may have no more"
    )
    assert "the machine had no more" in str(Killed(1, False, None))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),
        ("oom_kill_disable 0\nunder_oom 0\n", None),
        ("", None),
    ],
)
def test_counts_of_both_versions(text: str, count: int | None) -> None:
    assert kills_counted(text) == count


@pytest.mark.parametrize(
    ("groups", "mounts", "path"),
    [
        ("4:memory:/user/a\n8:pids:/\n0::/\n", BOTH, "/sys/fs/cgroup/memory/user/a/memory.oom_control"),
        ("4:memory:/\n0::/\n", BOTH, "/sys/fs/cgroup/memory/memory.oom_control"),
        ("0::/user.slice/s-1.scope\n", UNIFIED, "/sys/fs/cgroup/user.slice/s-1.scope/memory.events"),
        ("0::/\n", UNIFIED, "/sys/fs/cgroup/memory.events"),
        ("5:memory:/docker/4f1e/job\n", CONTAINER, "/sys/fs/cgroup/memory/job/memory.oom_control"),
        ("5:memory:/elsewhere\n", CONTAINER, "/sys/fs/cgroup/memory/memory.oom_control"),
        ("0::/a\n", "31 23 0:28 / / rw - ext4 /dev/root rw\n", None),
    ],
)
def test_where_kills_are_counted(groups: str, mounts: str, path: str | None) -> None:
    assert counting_file(groups, mounts) == path


def test_a_counted_kill_explains_one_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_memory, "_LOG", str(tmp_path / "none"))
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 4\n")
    word = KernelsWord()
    account = out_of_memory.Account(str(counter), 4)
    assert word.why(10, account) is None
    counter.write_text("oom_kill 5\n")
    assert "control group" in str(word.why(10, account))
    assert word.why(11, account) is None
    counter.unlink()
    assert word.why(12, account) is None


def test_what_the_log_said_before_a_task_began_is_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, writer = os.pipe2(os.O_NONBLOCK)  # gives what is new, as the log does
    monkeypatch.setattr(out_of_memory, "_open_log", lambda: log)
    word = KernelsWord()
    gone = subprocess.Popen(["true"])
    for pid in (gone.pid, 627):
        os.write(writer, IN_GROUP.replace("627", str(pid)).encode())
        assert word.why(1, None) is None
    word.account(gone.pid)
    assert word.why(gone.pid, None) is None, "it is told of before its number was this task's"
    os.write(writer, IN_GROUP.replace("627", str(gone.pid)).encode())
    assert word.why(1, None) is None
    assert "out of memory" in str(word.why(gone.pid, None))
    assert "out of memory" in str(word.why(627, None)), "and of others it is still known"
    gone.wait()
    os.close(writer)
    os.close(log)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group with little memory, for processes to be moved into."""
    files = {"memory": "memory.limit_in_bytes", "": "memory.max"}
    for parent, name in files.items():
        group = Path("/sys/fs/cgroup", parent, f"distrain-test-{uuid.uuid4().hex}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(LIMIT_BYTES))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group with a limit on memory can be made here")


@pytest.mark.processes
@pytest.mark.parametrize("log", [True, False], ids=["with-the-log", "by-the-count-alone"])
def test_a_hog_is_told_from_a_victim(
    open_host: Callable[..., Host], copied_package: Path, small_group: Path, log: bool
) -> None:
    """All in one group, which counts for all of them; with the kernel's log, and as if there were none to be read."""
    source = copied_package / "agent" / "out_of_memory.py"
    if not log:
        assert '"/dev/kmsg"' in source.read_text()
        source.write_text(source.read_text().replace('"/dev/kmsg"', '"/no/such/log"'))
    host = open_host(bundle=make_bundle(copied_package))
    (small_group / "cgroup.procs").write_text(str(host.agent_pid))
    victim = host.run("import time; time.sleep(600)", task="worker:1")
    host.run(HOG, task="worker:0")
    hog = host.exited("worker:0")
    assert hog.signal == signal.SIGKILL
    assert str(hog.why).startswith("out of memory: the kernel killed it")
    os.kill(victim.pid, signal.SIGKILL)
    assert host.exited("worker:1").why is None
    host.start(["sleep", "600"], task="worker:2")
    host.link.send(StopTasks((), 0.0))
    assert host.exited("worker:2").why is None
    host.end()
