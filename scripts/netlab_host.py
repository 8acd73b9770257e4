"""How a process becomes a host of the lab: its namespaces, its own files, and the sshd that it then is.

Owns what a host has for itself and what it sees of this machine. Which hosts there are, and how they are cabled, is
`netlab`'s. Linux, root, standard library.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

OWN_FOLDERS = ("/root", "/tmp", "/run", "/etc/ssh")
PID_FILE = "/etc/ssh/sshd.pid"
LOG_FILE = "/etc/ssh/sshd.log"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
SSHD_CONFIG = f"""\
HostKey {HOST_KEY}
PidFile {PID_FILE}
AllowUsers root
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
Banner /etc/ssh/banner
"""
"""`banner` is not there until somebody writes it."""

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x0002_0000, 0x0400_0000, 0x4000_0000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
_PR_SET_PDEATHSIG = 1
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1


class Refused(Exception):
    """A sentence for the user, and the exit code."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Host:
    """`folder` holds what the host has for itself, each at its path there."""

    name: str
    address: str
    namespace: str
    folder: str

    def own(self, path: str) -> Path:
        """Where the host's own `path` lies on this machine."""
        return Path(self.folder) / path.lstrip("/")

    def listener(self) -> int | None:
        """The process id of its sshd, while that runs."""
        try:
            pid = int(self.own(PID_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return None
        place = identity(f"/run/netns/{self.namespace}")
        return pid if place is not None and identity(f"/proc/{pid}/ns/net") == place else None


def identity(path: str) -> tuple[int, int] | None:
    """What no two namespaces have in common, nor one with a file that has not become one yet. None: it is not there."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last two: a process that is just ending
        return None
    return found.st_dev, found.st_ino


def may_make_namespaces() -> bool:
    probe = os.fork()
    if probe == 0:
        with suppress(OSError):
            _unshare(_CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWUTS)
            os._exit(0)
        os._exit(1)
    return os.waitpid(probe, 0)[1] == 0


def become(
    host: Host,
    *,
    parent: int,
    names: Sequence[tuple[str, str]],
    key: bytes,
    hidden: Sequence[str],
    shown: Sequence[str],
) -> NoReturn:
    """Turns this process, a fork of `parent`, into the host's sshd. `names`: everybody's address and name, this
    machine's included. `key` lets its holder in. `hidden` and `shown`: folders besides OWN_FOLDERS that are the host's,
    or this machine's.

    Raises:
        Refused, OSError: it cannot.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # until it is a daemon, which the namespace leads to
    if os.getppid() != parent:
        raise Refused("it was left alone")
    _furnish(host, names, key, hidden)
    sshd = shutil.which("sshd")
    assert sshd is not None
    _enter(f"/run/netns/{host.namespace}", _CLONE_NEWNET)
    cabling = [f"address add {host.address}/24 dev eth0", "link set eth0 up", "link set lo up"]
    ip([*cabling, *neighbours("eth0", (address for address, _ in names if address != host.address))])
    _unshare(_CLONE_NEWNS | _CLONE_NEWUTS)
    socket.sethostname(host.name)
    _cover(host, hidden, shown)
    os.chdir("/")
    os.closerange(3, 1024)
    os.execv(sshd, [sshd, "-f", "/etc/ssh/sshd_config", "-E", LOG_FILE])


def enter(listener: int) -> None:
    """Moves this process to the host of that sshd, into /root there."""
    for kind, flag in (("net", _CLONE_NEWNET), ("uts", _CLONE_NEWUTS), ("mnt", _CLONE_NEWNS)):
        _enter(f"/proc/{listener}/ns/{kind}", flag)
    os.chdir("/root")


def hardware(address: str) -> str:
    """The hardware address of who has that address."""
    return "02:00:" + ":".join(f"{number:02x}" for number in ipaddress.ip_address(address).packed)


def neighbours(interface: str, addresses: Iterable[str]) -> Iterator[str]:
    """Has everybody's hardware address known for good. The kernel's table of those that were asked for, which all
    namespaces share, is full at a thousand: too few for 50 hosts that all speak with each other.
    """
    for address in addresses:
        yield f"neighbour add {address} lladdr {hardware(address)} dev {interface} nud permanent"


def ip(lines: Iterable[str], namespace: str | None = None) -> None:
    """Carries out commands of ip(8), in one go."""
    inside = ("-netns", namespace) if namespace else ()
    run("ip", *inside, "-batch", "-", text="\n".join(lines))


def make_key(path: Path, comment: str) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))


def run(*argv: str, text: str = "") -> str:
    """What a command prints.

    Raises:
        Refused: it failed.
    """
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{shlex.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# ---- files


def _furnish(host: Host, names: Sequence[tuple[str, str]], key: bytes, hidden: Sequence[str]) -> None:
    """Writes the host's own files."""
    for path in (*OWN_FOLDERS, *hidden, "/run/sshd", "/root/.ssh"):
        host.own(path).mkdir(mode=0o755, parents=True, exist_ok=True)
    host.own("/tmp").chmod(0o1777)
    host.own("/root").chmod(0o700)
    host.own("/root/.ssh/authorized_keys").write_bytes(key)
    host.own("/etc/ssh/sshd_config").write_text(SSHD_CONFIG)
    host.own("/etc/hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{' '.join(each)}\n" for each in names))
    host.own("/etc/shadow").write_text("root:*:19000:0:99999:7:::\n")  # a locked account may not log in at all
    host.own("/etc/shadow").chmod(0o600)
    make_key(host.own(HOST_KEY), host.name)


def _cover(host: Host, hidden: Sequence[str], shown: Sequence[str]) -> None:
    """Puts the host's own files over this machine's, and makes those read-only that still are to be seen."""
    _set_mounts("/", _MOUNT_ATTR_RDONLY, 0, _MS_PRIVATE)
    for system in ("/proc", "/dev/pts"):  # devices can be written to on a read-only mount, but not deleted
        _set_mounts(system, 0, _MOUNT_ATTR_RDONLY, 0)
    # Opened before anything is covered: a source may lie in a folder that the host gets one of its own for.
    covers = [
        (path, os.open(host.own(path), os.O_PATH)) for path in (*OWN_FOLDERS, *hidden, "/etc/hosts", "/etc/shadow")
    ]
    kept = [(path, os.open(path, os.O_PATH)) for path in shown]
    for path, source in covers:
        if os.path.exists(path):
            _mount(f"/proc/self/fd/{source}", path, "none", _MS_BIND)
            _set_mounts(path, 0, _MOUNT_ATTR_RDONLY, 0)
    for path, source in kept:
        os.makedirs(path, exist_ok=True)
        _mount(f"/proc/self/fd/{source}", path, "none", _MS_BIND | _MS_REC)
    _mount("tmpfs", "/dev/shm", "tmpfs", 0)


# ---- system calls


_libc = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def _enter(path: str, kind: int) -> None:
    with open(path) as namespace:
        _checked(_libc.setns(namespace.fileno(), kind), path)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _checked(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None), target)


def _set_mounts(path: str, added: int, removed: int, propagation: int) -> None:
    """Sets the attributes of the mount at `path` and all below it (mount_setattr)."""
    attributes = struct.pack("=QQQQ", added, removed, propagation, 0)
    number, at, flags = ctypes.c_long(_MOUNT_SETATTR), ctypes.c_int(_AT_FDCWD), ctypes.c_uint(_AT_RECURSIVE)
    size = ctypes.c_size_t(len(attributes))
    _checked(_libc.syscall(number, at, path.encode(), flags, attributes, size), f"the mounts below {path}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
