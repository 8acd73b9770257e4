"""The lab itself: what its hosts share and do not, and that nothing of it stays."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from netlab.lab import FOLDERS, NETLAB, Lab, netlab, no_lab, take_down_abandoned
from process_table import wait_until


def ssh(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(lab.bin / "ssh"), "-o", "ConnectTimeout=1", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)


def traces(name: str) -> list[str]:
    """What is left on this machine of a lab of that name."""
    namespaces = [each for each in os.listdir("/run/netns") if each.startswith(name)]
    return namespaces + [each for each in os.listdir("/sys/class/net") if each == name]


def test_a_host_has_a_name_an_address_and_folders_of_its_own(lab: Lab) -> None:
    told = ssh(
        lab, "host2", "hostname; echo $HOME; pwd; touch here /tmp/here; ls /dev/shm; ip -br -4 address show eth0"
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.split()[:3] == ["host2", "/root", "/root"]
    assert lab.address("host2") in told.stdout
    assert (lab.home("host2") / "here").exists()
    assert not Path("/tmp/here").exists()
    assert ssh(lab, "host1", "ls here /tmp/here").returncode != 0
    assert lab.run("host2", "sh", "-c", "hostname; pwd").stdout.split() == ["host2", "/root"]


def test_the_rest_of_the_file_system_is_out_of_reach(spare: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "kept").write_text("here")
    assert netlab(spare, "up", "1", "--show", str(shown)).returncode == 0
    program = 'cat "$1/kept"; rm "$1/kept"; touch /var/tmp/x /dev/x; echo >/dev/null'
    done = Lab(spare).run("host1", "sh", "-c", program, "sh", str(shown))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "here"
    assert done.stderr.count("Read-only file system") == 3
    assert (shown / "kept").exists()


def test_distrain_is_not_there_but_python_is(lab: Lab) -> None:
    there = lab.run("host1", sys.executable, "-c", "import click; print('click'); import distrain")
    assert there.stdout == "click\n"
    assert "No module named 'distrain'" in there.stderr


def test_hosts_reach_each_other_and_nothing_beyond(lab: Lab) -> None:
    program = "import socket, sys; socket.create_connection((sys.argv[1], 22), 3)"
    reached = lab.run("host1", sys.executable, "-c", program, "host3")
    assert reached.returncode == 0, reached.stderr
    beyond = lab.run("host1", sys.executable, "-c", program, "192.0.2.1")
    assert "Network is unreachable" in beyond.stderr


def test_a_cut_host_is_silent_until_it_is_mended(lab: Lab) -> None:
    lab.cut("host2")
    assert "timed out" in ssh(lab, "host2", "true").stderr
    assert ssh(lab, "host1", "true").returncode == 0
    lab.mend("host2")
    assert ssh(lab, "host2", "true").returncode == 0


def test_a_frozen_host_says_nothing_and_its_connections_stay_open(lab: Lab) -> None:
    program = "import socket; c = socket.create_server(('', 41000)).accept()[0]; c.sendall(c.recv(9)); c.recv(9)"
    with lab.running("host1", sys.executable, "-S", "-c", program) as echo:
        connection = connected(lab.address("host1"), 41000)
        with connection:
            lab.freeze("host1")
            assert [(each.pid, each.state) for each in lab.processes("host1")] == [(echo.pid, "T")]
            connection.sendall(b"hello")
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(9)
            lab.thaw("host1")
            connection.settimeout(5)
            assert connection.recv(9) == b"hello"


def connected(address: str, port: int) -> socket.socket:
    """A connection to a program that is just starting."""
    made: list[socket.socket] = []

    def listens() -> bool:
        try:
            made.append(socket.create_connection((address, port), 1))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listens, 10, f"somebody on port {port}")
    return made[0]


def test_two_labs_know_nothing_of_each_other(lab: Lab, spare: Path) -> None:
    assert netlab(spare, "up", "2").returncode == 0
    other = Lab(spare)
    assert not {other.address(host) for host in other.hosts} & {lab.address(host) for host in lab.hosts}
    assert ssh(other, "host1", "hostname").stdout == "host1\n"
    assert netlab(spare, "down").returncode == 0
    assert not spare.exists()
    assert ssh(lab, "host1", "true").returncode == 0
    assert netlab(spare, "down").returncode == 0, "there is nothing to take down"


# ---- up and down


def files(folder: Path) -> dict[str, str | None]:
    return {str(path): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("record", [None, "", '{"hosts": []}', "[]"])
def test_a_folder_that_is_there_already_is_not_touched(hosts: Lab, tmp_path: Path, record: str | None) -> None:
    folder = tmp_path / "home"
    for name in ("bin/x", "hosts/x", "known_hosts", "ssh_config", "client_key", "client_key.pub"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    if record is not None:
        (folder / "lab.json").write_text(record)
    before = files(folder)
    made = netlab(folder, "up", "1")
    assert (made.returncode, made.stderr.count("\n")) == (1, 1)
    assert "is there already" in made.stderr
    gone = netlab(folder, "down")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert files(folder) == before


def test_the_record_of_a_lab_elsewhere_is_not_gone_by(lab: Lab, tmp_path: Path) -> None:
    shutil.copy(lab.folder / "lab.json", tmp_path / "lab.json")
    (tmp_path / "mine").write_text("mine")
    gone = netlab(tmp_path, "down")
    assert gone.returncode == 1
    assert f"was made in {lab.folder}" in gone.stderr
    assert (tmp_path / "mine").exists()
    assert ssh(lab, "host1", "true").returncode == 0


def test_what_is_mounted_or_linked_in_a_lab_is_not_deleted(spare: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert netlab(spare, "up", "1").returncode == 0
    home = Lab(spare).home("host1")
    (home / "link").symlink_to(tmp_path)
    with mounted(tmp_path, home / "my data"):
        gone = netlab(spare, "down")
        assert gone.returncode == 1
        assert f"{home / 'my data'}: not the lab's" in gone.stderr
        assert (tmp_path / "mine").exists()
    assert netlab(spare, "down").returncode == 0
    assert not spare.exists()
    assert (tmp_path / "mine").exists()


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[None]:
    target.mkdir()
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("stage", ["lab.json", "client_key", "hosts/host9/etc/ssh/sshd.pid"])
def test_a_half_made_lab_is_taken_down(spare: Path, stage: str) -> None:
    with subprocess.Popen([str(NETLAB), "--dir", str(spare), "up", "20"], start_new_session=True) as making:
        try:
            wait_until((spare / stage).exists, 20, stage)
        finally:
            making.kill()
    name = json.loads((spare / "lab.json").read_text())["name"]
    if stage != "lab.json":
        assert traces(name) != []
    assert netlab(spare, "down").returncode == 0
    assert not spare.exists()
    assert traces(name) == []
    assert users(spare) == []


def test_a_namespace_that_has_not_become_one_is_taken_down(spare: Path) -> None:
    """As a killed `ip netns add` leaves it: a file on the disk, whose inode may have the number of any namespace."""
    assert netlab(spare, "up", "1").returncode == 0
    os.kill(int((spare / "hosts/host1/etc/ssh/sshd.pid").read_text()), signal.SIGKILL)
    namespace = json.loads((spare / "lab.json").read_text())["hosts"][0]["namespace"]
    subprocess.run(["umount", f"/run/netns/{namespace}"], check=True)
    assert Path(f"/run/netns/{namespace}").is_file()
    assert netlab(spare, "down").returncode == 0
    assert traces(namespace) == []


@pytest.mark.parametrize(("device", "inode", "same"), [(4, 7, True), (5, 7, False), (4, 8, False)])
def test_a_namespace_is_known_by_device_and_inode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: int, inode: int, same: bool
) -> None:
    """Inode numbers alone repeat from one file system to another, and what is taken for the lab's is killed."""
    monkeypatch.syspath_prepend(NETLAB.parent)
    netlab_host = importlib.import_module("netlab_host")
    told = {"/run/netns/its": (4, 7), f"/proc/{os.getpid()}/ns/net": (device, inode)}
    found = {path: SimpleNamespace(st_dev=numbers[0], st_ino=numbers[1]) for path, numbers in told.items()}
    monkeypatch.setattr(netlab_host, "os", SimpleNamespace(stat=found.__getitem__))
    host = netlab_host.Host("host1", "", "its", str(tmp_path))
    host.own("/etc/ssh").mkdir(parents=True)
    host.own("/etc/ssh/sshd.pid").write_text(str(os.getpid()))
    assert host.listener() == (os.getpid() if same else None)


def test_an_interrupted_up_leaves_nothing(spare: Path) -> None:
    command = [str(NETLAB), "--dir", str(spare), "up", "20"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as making:
        try:
            wait_until((spare / "client_key").exists, 20, "the client's key")
            making.send_signal(signal.SIGTERM)
            assert making.wait(20) != 0
        finally:
            making.kill()
    assert not spare.exists()
    assert users(spare) == []


def users(folder: Path) -> list[str]:
    """The processes that have something of the folder mounted, as a lab's hosts have, be it deleted or not."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            if f" {folder}/" in mounts.read_text():
                found.append(mounts.parent.name)
    return found


def test_the_lab_of_a_killed_test_is_taken_down(hosts: Lab) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    folder = Path(f"{FOLDERS}{dead.pid}")
    assert netlab(folder, "up", "1").returncode == 0
    take_down_abandoned()
    assert not folder.exists()
    assert ssh(hosts, "host1", "true").returncode == 0


@pytest.mark.parametrize(("ci", "user", "ending"), [("1", 0, pytest.fail), ("1", 1, pytest.skip), ("", 0, pytest.skip)])
def test_no_lab_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str, user: int, ending: object) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(ending.Exception, match="a lab needs ip"):  # type: ignore[attr-defined]
        no_lab("a lab needs ip")


def test_without_root_it_says_so(hosts: Lab, tmp_path: Path) -> None:
    """`hosts` is asked for to be skipped where no lab is possible."""
    program = (
        "import os, runpy, sys\n"
        "os.geteuid = lambda: 65534\n"  # who is not root might not even be let into the folder of this file
        "sys.path.insert(0, os.path.dirname(sys.argv[1]))\n"
        "del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(NETLAB), "--dir", str(tmp_path / "lab"), "up", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "netlab: a lab needs root, for its network namespaces\n")
    assert not (tmp_path / "lab").exists()
