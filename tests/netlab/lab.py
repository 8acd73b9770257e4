"""The hosts of a lab that scripts/netlab has made, seen from a test: what lives on them, and what can befall them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from process_table import wait_until

ROOT = Path(__file__).parents[2]
NETLAB = ROOT / "scripts" / "netlab"
MNIST = ROOT.parent / "shared" / "data" / "mnist-10k"
FOLDERS = "/run/netlab-tests-"
"""How the folders of these tests' labs begin; the process id of their pytest follows."""


def netlab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(NETLAB), "--dir", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def no_lab(reason: str) -> NoReturn:
    """Skips what needs a lab, for there can be none here; or fails, where CI has all that a lab needs, and lost it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(reason)
    pytest.skip(reason)


def take_down_abandoned() -> None:
    """The labs of tests that were killed."""
    for folder in Path("/").glob(f"{FOLDERS[1:]}*/"):
        pid = folder.name.removeprefix(Path(FOLDERS).name).partition("-")[0]
        if (folder / "lab.json").is_file() and not Path(f"/proc/{pid}").exists():
            gone = netlab(folder, "down")
            assert gone.returncode == 0, gone.stderr


@dataclass(frozen=True)
class Inhabitant:
    """A process that lives in a host's network namespace. `state` as in /proc/PID/stat."""

    pid: int
    state: str
    command: str


class Lab:
    """The lab in `folder`. `hosts`: their names, which are also aliases for the lab's ssh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        record = json.loads((folder / "lab.json").read_text())
        self.name: str = record["name"]
        self.own_address: str = record["own_address"]
        self._addresses = {host["name"]: host["address"] for host in record["hosts"]}
        self._namespaces = {_identity(f"/run/netns/{host['namespace']}"): host["name"] for host in record["hosts"]}
        self.hosts = tuple(self._addresses)
        self._cut: set[str] = set()
        self._furniture = {path for host in self.hosts for path in self._own_files(host)}

    @property
    def bin(self) -> Path:
        """The folder of an ssh that finds the lab's hosts, for the PATH of whoever is to reach them."""
        return self.folder / "bin"

    def address(self, host: str) -> str:
        return self._addresses[host]

    def home(self, host: str) -> Path:
        return self.path(host, "/root")

    def path(self, host: str, path: str) -> Path:
        """Where one of the host's own folders, and what is below it, is for this machine."""
        return self.folder / "hosts" / host / path.lstrip("/")

    def run(self, host: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs a command there, without ssh."""
        return netlab(self.folder, "exec", host, *argv)

    @contextmanager
    def running(self, host: str, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
        """Has a command run there that has nothing to do with distrain, and is one of the inhabitants."""
        with subprocess.Popen([str(NETLAB), "--dir", str(self.folder), "exec", host, *argv]) as process:
            try:
                wait_until(lambda: process.pid in {each.pid for each in self.processes(host)}, 10, f"{argv} on {host}")
                yield process
            finally:
                process.kill()

    def logins(self, host: str) -> int:
        """How many connections the host's sshd has let in so far."""
        log = self.path(host, "/etc/ssh/sshd.log").read_text(errors="replace")
        return log.count("Accepted publickey")

    def bytes_sent(self) -> int:
        """What this machine has sent to all the hosts so far."""
        return int(Path(f"/sys/class/net/{self.name}/statistics/tx_bytes").read_text())

    # ---- who lives there

    def processes(self, *hosts: str) -> list[Inhabitant]:
        """Everything that runs on these hosts, or on any, but for the sshd that listens. Zombies do not."""
        listeners = {int(self.path(host, "/etc/ssh/sshd.pid").read_text()) for host in self.hosts}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in listeners:
                continue
            try:
                host = self._namespaces.get(_identity(f"{entry}/ns/net"))
                if host is None or (hosts and host not in hosts):
                    continue
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            found.append(Inhabitant(int(entry.name), state, command))
        return found

    def none_left(self, *hosts: str, timeout_s: float = 10, but: tuple[int, ...] = ()) -> float:
        """Waits until nothing but `but` runs there, and returns for how many seconds."""

        def left() -> list[Inhabitant]:
            return [each for each in self.processes(*hosts) if each.pid not in but]

        try:
            return wait_until(lambda: not left(), timeout_s)
        except AssertionError:
            raise AssertionError(f"still there after {timeout_s:g} s: {left()}") from None

    # ---- what can befall them

    def cut(self, host: str) -> None:
        netlab(self.folder, "cut", host).check_returncode()
        self._cut.add(host)

    def mend(self, host: str) -> None:
        netlab(self.folder, "mend", host).check_returncode()
        self._cut.discard(host)

    def freeze(self, host: str) -> None:
        """Stops all that runs there, as a machine that hangs; connections to it stay open."""

        def stopped() -> bool:
            running = [each for each in self.processes(host) if each.state != "T"]
            for each in running:
                _signal(each.pid, signal.SIGSTOP)
            return not running

        wait_until(stopped, 10, f"{host} frozen")

    def thaw(self, host: str) -> None:
        for each in self.processes(host):
            _signal(each.pid, signal.SIGCONT)

    def restore(self) -> list[Inhabitant]:
        """Makes the hosts as they were at first. Returns what did not end there by itself."""
        try:
            self.none_left(timeout_s=5)
            left = []
        except AssertionError:
            left = self.processes()
        try:
            for each in left:
                _signal(each.pid, signal.SIGKILL)
            self.none_left()
        finally:
            for host in tuple(self._cut):
                self.mend(host)
            for path in (path for host in self.hosts for path in self.belongings(host)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return left

    def belongings(self, host: str) -> set[Path]:
        """What has come to stand in the host's home and temporary folder, and was not there at first."""
        return set(self._own_files(host)) - self._furniture

    def _own_files(self, host: str) -> Iterator[Path]:
        for folder in ("/root", "/tmp"):
            yield from self.path(host, folder).iterdir()


def _identity(namespace: str) -> tuple[int, int]:
    found = os.stat(namespace)
    return found.st_dev, found.st_ino


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
