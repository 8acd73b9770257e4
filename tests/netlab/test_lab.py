"""The lab itself: what its hosts share and do not, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from netlab.lab import NETLAB, Lab, netlab
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


def test_the_rest_of_the_file_system_is_out_of_reach(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "kept").write_text("here")
    folder = tmp_path / "lab"
    assert netlab(folder, "up", "1", "--show", str(tmp_path / "shown")).returncode == 0
    try:
        done = netlab(
            folder,
            "exec",
            "host1",
            "sh",
            "-c",
            'cat "$1/kept"; rm "$1/kept"; : >/var/tmp/x',
            "sh",
            str(tmp_path / "shown"),
        )
    finally:
        assert netlab(folder, "down").returncode == 0
    assert done.stdout == "here"
    assert done.stderr.count("Read-only file system") == 2
    assert (tmp_path / "shown" / "kept").exists()


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


def test_a_frozen_host_takes_connections_and_says_nothing(lab: Lab) -> None:
    sleeper = lab.start("host1", "sleep", "1000")
    lab.freeze("host1")
    assert [(each.pid, each.state) for each in lab.processes("host1")] == [(sleeper.pid, "T")]
    lab.thaw("host1")
    assert [each.state for each in lab.processes("host1")] == ["S"]
    sleeper.kill()
    sleeper.wait()


def test_two_labs_know_nothing_of_each_other(lab: Lab, tmp_path: Path) -> None:
    assert netlab(tmp_path / "other", "up", "2").returncode == 0
    try:
        other = Lab(tmp_path / "other")
        assert not {other.address(host) for host in other.hosts} & {lab.address(host) for host in lab.hosts}
        assert ssh(other, "host1", "hostname").stdout == "host1\n"
        assert "already" in netlab(other.folder, "up", "2").stderr
    finally:
        assert netlab(tmp_path / "other", "down").returncode == 0
    assert not (tmp_path / "other").exists()
    assert ssh(lab, "host1", "true").returncode == 0
    assert netlab(tmp_path / "other", "down").returncode == 0, "there is nothing to take down"


@pytest.mark.parametrize("stage", ["lab.json", "client_key", "hosts/host9/etc/ssh/sshd.pid"])
def test_a_half_made_lab_is_taken_down(hosts: Lab, tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "lab"
    making = subprocess.Popen([str(NETLAB), "--dir", str(folder), "up", "20"], start_new_session=True)
    wait_until((folder / stage).exists, 20, stage)
    making.kill()
    making.wait()
    name = json.loads((folder / "lab.json").read_text())["name"]
    if stage != "lab.json":
        assert traces(name) != []
    assert netlab(folder, "down").returncode == 0
    assert not folder.exists()
    assert traces(name) == []


def test_an_interrupted_up_leaves_nothing(hosts: Lab, tmp_path: Path) -> None:
    making = subprocess.Popen(
        [str(NETLAB), "--dir", str(tmp_path / "lab"), "up", "20"], start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_until((tmp_path / "lab" / "client_key").exists, 20, "the client's key")
    making.send_signal(signal.SIGTERM)
    assert making.wait(20) != 0
    assert not (tmp_path / "lab").exists()


def test_without_root_it_says_so(hosts: Lab) -> None:
    """`hosts` is asked for to be skipped where no lab is possible."""
    program = (
        "import os, runpy, sys\n"
        "os.geteuid = lambda: 65534\n"  # who is not root might not even be let into the folder of this file
        "sys.path.insert(0, os.path.dirname(sys.argv[1]))\n"
        "del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(NETLAB), "--dir", "/nowhere", "up", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "netlab: a lab needs root, for its network namespaces\n")
