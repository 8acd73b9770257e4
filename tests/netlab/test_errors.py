"""A host that cannot be used is named in a sentence that says what to do next, with real ssh and sshd; exit code 3."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from netlab.lab import Lab
from netlab.launch import Launch, write_job
from netlab.programs import HELLO

EXIT_HOST = 3


@pytest.fixture
def hello(user: Path) -> str:
    (user / "hello.py").write_text(HELLO)
    return "hello.py"


def ssh_with(lab: Lab, folder: Path, *options: str) -> Path:
    """The folder of an ssh that has more options than the lab's."""
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shlex.quote(str(lab.bin / "ssh"))} {shlex.join(options)} "$@"\n')
    ssh.chmod(0o700)
    return ssh.parent


def refused(run: Launch, host: str, *words: str) -> None:
    """It ends as it should: with a sentence that names the host and has these words, and no task was started."""
    run.wait(EXIT_HOST)
    told = run.summary["first_failure"]["message"]
    assert told.startswith(f"{host}: "), told
    for each in words:
        assert each in told, told
    assert told in run.text
    assert "\n" not in told
    assert not [event for event in run.events if event["kind"] == "task_started"]


# ---- ssh


def test_an_unknown_host_key(lab: Lab, launch: Callable[..., Launch], hello: str, tmp_path: Path) -> None:
    known = (lab.folder / "known_hosts").read_text().splitlines()
    (tmp_path / "known").write_text("\n".join(line for line in known if not line.startswith("host2,")))
    bin = ssh_with(lab, tmp_path, "-o", f"UserKnownHostsFile={tmp_path / 'known'}")
    refused(launch("--workers", "host1,host2", hello, bin=bin), "host2", "host key is not known", "fingerprint")


def test_another_host_key(lab: Lab, launch: Callable[..., Launch], hello: str, tmp_path: Path) -> None:
    known = (lab.folder / "known_hosts").read_text()
    keys = {line.split()[0].split(",")[0]: line.split()[2] for line in known.splitlines()}
    known = known.replace(keys["host2"], keys["host3"])
    (tmp_path / "known").write_text(known)
    bin = ssh_with(lab, tmp_path, "-o", f"UserKnownHostsFile={tmp_path / 'known'}")
    refused(launch("--workers", "host1,host2", hello, bin=bin), "host2", "not the one that this machine knows")


def test_a_refused_key(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    keys = lab.home("host2") / ".ssh" / "authorized_keys"
    content = keys.read_bytes()
    keys.write_bytes(b"")
    try:
        refused(launch("--workers", "host1,host2", hello), "host2", "permission denied", "authorized_keys")
    finally:
        keys.write_bytes(content)


def test_an_address_where_nobody_is(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    nobody = lab.address("host1").rpartition(".")[0] + ".253"
    refused(launch("--workers", f"host1,{nobody}", hello), nobody, "there is no way", "is it up")


def test_a_host_that_does_not_answer(lab: Lab, launch: Callable[..., Launch], hello: str, tmp_path: Path) -> None:
    assert lab.run("host2", "ip", "route", "add", "blackhole", f"{lab.own_address}/32").returncode == 0
    try:
        bin = ssh_with(lab, tmp_path, "-o", "ConnectTimeout=2")
        refused(launch("--workers", "host1,host2", hello, bin=bin), "host2", "does not answer on port 22", "firewall")
    finally:
        assert lab.run("host2", "ip", "route", "delete", "blackhole", f"{lab.own_address}/32").returncode == 0


def test_a_port_where_no_sshd_is(lab: Lab, launch: Callable[..., Launch], hello: str, user: Path) -> None:
    hosts = ["host1", {"host": "host2", "port": 2222}]
    job = write_job(user, name="port", program=[hello], cluster={"workers": 2, "hosts": hosts})
    refused(launch(job), "host2", "refuses connections on port 2222", "is sshd running")


def test_a_name_that_nobody_knows(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    refused(launch("--workers", "host1,nowhere.invalid", hello), "nowhere.invalid", "not known", "DNS")


@pytest.mark.parametrize("name", ["-oProxyCommand=touch pwned", "$(touch pwned)", "a;touch pwned", "me@-host", "a b"])
def test_a_name_that_is_an_option_or_a_command(lab: Lab, launch: Callable[..., Launch], hello: str, name: str) -> None:
    run = launch(f"--workers={name}", hello)
    run.wait(2)
    assert not run.runs.exists()
    assert not list(run.folder.rglob("pwned"))


# ---- Python


def test_no_such_python(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    run = launch("--workers", "host1,host2", hello, python="/opt/none/bin/python3")
    run.wait(EXIT_HOST)
    told = run.summary["first_failure"]["message"]
    assert "there is no /opt/none/bin/python3 there" in told
    assert "--python" in told
    # Both hosts lack it, and both are named.
    assert "host1: there is no" in run.text
    assert "host2: there is no" in run.text


def test_an_old_python(lab: Lab, launch: Callable[..., Launch], hello: str, user: Path) -> None:
    old = lab.home("host2") / "old-python"
    old.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "sys.version_info = (3, 8, 18, 'final', 0)\n"
        "exec(sys.argv[sys.argv.index('-c') + 1])\n"
    )
    old.chmod(0o755)
    hosts = [{"host": "host1", "python": sys.executable}, {"host": "host2", "python": "/root/old-python"}]
    job = write_job(user, name="old", program=[hello], cluster={"workers": 2, "hosts": hosts})
    refused(launch(job, python=None), "host2", "its Python is 3.8", "3.11 or newer")


def test_no_tensorflow(lab: Lab, launch: Callable[..., Launch], user: Path) -> None:
    bare = lab.home("host2") / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    hosts = [{"host": "host1", "python": sys.executable}, {"host": "host2", "python": "/root/bare-python"}]
    job = write_job(
        user, name="bare", strategy="MultiWorkerMirrored", cluster={"workers": 2, "hosts": hosts}, warm=False
    )
    refused(launch(job, python=None), "host2", "TensorFlow is not installed for /root/bare-python", "pip install")


# ---- disks and start-up files


FILL = """
set -e
mount -t tmpfs -o size=48k,mode=700 none /mnt
if [ "$1" = /root ]; then  # the key lets us in, and below another entry Python may lie
    cp -a /root/.ssh /mnt/
    for each in $(ls -A /root); do
        if [ "$each" != .ssh ]; then mkdir "/mnt/$each"; mount --rbind "/root/$each" "/mnt/$each"; fi
    done
fi
cat /dev/zero >/mnt/full || mount --move /mnt "$1"
"""


@contextmanager
def full(lab: Lab, host: str, *folders: str) -> Iterator[None]:
    """These folders of the host are on disks without room."""
    with ExitStack() as filled:
        for folder in folders:
            fill = lab.run(host, "sh", "-c", FILL, "sh", folder)
            assert fill.returncode == 0, fill.stderr
            filled.callback(empty, lab, host, folder)
        yield


def empty(lab: Lab, host: str, folder: str) -> None:
    """Gives a folder that was filled its own disk again."""
    assert lab.run(host, "umount", "--lazy", folder).returncode == 0


def test_a_full_disk(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    if sys.prefix.startswith("/tmp/"):
        pytest.skip("the interpreter lies below a folder that this test hides")
    with full(lab, "host2", "/root", "/tmp"):
        refused(launch("--workers", "host1,host2", hello), "host2", "No space left on device", "free some")


def test_a_full_home_alone_is_not_in_the_way(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    with full(lab, "host2", "/root"):
        run = launch("--workers", "host1,host2", hello)
        run.wait(0)
    assert run.log("worker:1") == "hello from worker:1\n"
    lab.none_left()
    left = [path.name for path in lab.path("host2", "/tmp").rglob("*") if path.is_file()]
    assert left in ([], [".lock"])


def test_a_greeting_and_a_noisy_start_up_file(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    banner = lab.path("host1", "/etc/ssh/banner")
    banner.write_text("Authorized use only. Permission denied (to all others).\n" * 100)
    noise = "Welcome!\\n\\033[31mnews\\377\\n"
    (lab.home("host1") / ".bashrc").write_text(f"printf '{noise}'; printf '{noise}' >&2; printf 'no newline'\n")
    try:
        run = launch("--workers", "host1,host2", hello)
        run.wait(0)
    finally:
        banner.unlink()
    assert run.log("worker:0") == "hello from worker:0\n"


def test_a_start_up_file_that_ends_the_shell(lab: Lab, launch: Callable[..., Launch], hello: str) -> None:
    (lab.home("host2") / ".bashrc").write_text("echo maintenance until noon; exit 4\n")
    run = launch("--workers", "host1,host2", hello)
    run.wait(EXIT_HOST)
    assert run.summary["first_failure"]["message"].startswith("host2: ")
    assert "maintenance until noon" in run.text
