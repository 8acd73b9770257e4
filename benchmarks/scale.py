"""How `distrain launch` grows with the number of hosts: 1 to 50, four tasks on each, which print a line and wait.

The hosts are those of scripts/netlab, on this one machine: all share its cores, and what is measured is as much the
work of their sshds and agents as the launcher's. Four ways to start the same stub by turns: distrain with its code on
the hosts from the time before, distrain with hosts that it has never been to, a shell's loop of `ssh … &`, and pdsh
with a place for every host. The others get one connection for a host's four tasks, as distrain does.

Seconds from the command to the first line and to the last task's, as they come out at the user's end, and from Ctrl-C
until no process of it is left on any host; or how many are, five seconds later. Needs root, what scripts/netlab needs,
and pdsh.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab import Lab, lab
from processes import DEADLINE_S, Processes
from rich.table import Table
from side_by_side import Measured, Side, Spread, by_turns, print_table, write

HOSTS = (1, 5, 10, 25, 50)
TASKS_PER_HOST = 4
LEFT_AFTER_S = 5.0
STUB = "echo ready\nexec sleep 1000000\n"
QUANTITIES = {
    "first line s": "to the first line",
    "all ready s": "to all ready",
    "nothing left s": "Ctrl-C to nothing left",
    "left": f"processes left after {LEFT_AFTER_S:g} s",
}


@dataclass(frozen=True)
class Hosts:
    """Those of `lab`, and `work`: a folder of this machine that they see too, with the stub in it."""

    lab: Lab
    work: Path
    namespaces: frozenset[tuple[int, int]]
    listeners: frozenset[int]

    def processes(self) -> list[int]:
        """Whatever runs on the hosts, but for the sshds that wait there for connections."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) not in self.listeners:
                with suppress(OSError):
                    if _identity(f"/proc/{entry}/ns/net") in self.namespaces:
                        found.append(int(entry))
        return found

    def clear(self) -> None:
        """Ends what is left."""
        deadline = time.monotonic() + DEADLINE_S
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise RuntimeError(f"these processes on the hosts do not end: {left}")
            time.sleep(0.01)

    def forget(self) -> None:
        """Removes what distrain has stored on the hosts."""
        for cache in self.lab.folder.glob("hosts/*/root/.cache"):
            shutil.rmtree(cache)


def _identity(namespace: str) -> tuple[int, int]:
    found = os.stat(namespace)
    return found.st_dev, found.st_ino


@contextmanager
def opened(hosts: int) -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="distrain-scale-") as work:
        (Path(work) / "stub.sh").write_text(STUB)
        with lab("scale", hosts, shown=(work,)) as there:
            listeners = [path.read_text() for path in there.folder.glob("hosts/*/etc/ssh/sshd.pid")]
            yield Hosts(
                there,
                Path(work),
                frozenset(_identity(f"/run/netns/{name}") for name in there.namespaces.values()),
                frozenset(map(int, listeners)),
            )


def measure(there: Hosts, argv: Sequence[str], tasks: int) -> Measured:
    """Runs a command that starts `tasks` stubs, until it shows that all are there; then interrupts it.

    Raises:
        RuntimeError: it ends, or hangs, before.
    """
    with Processes() as processes:
        began = time.monotonic()
        process = processes.start(argv, {"PATH": there.lab.path, "PDSH_RCMD_TYPE": "ssh"})
        assert process.stdout is not None
        seen: list[float] = []
        for line in process.stdout:
            if line.endswith("ready\n"):
                seen.append(time.monotonic() - began)
                if len(seen) == tasks:
                    break
        else:
            raise RuntimeError(f"{len(seen)} of {tasks} tasks of {argv[0]} came:\n{processes.error_tail()}")
        interrupted = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        while (left := len(there.processes())) and time.monotonic() - interrupted < LEFT_AFTER_S:
            time.sleep(0.02)
        took = time.monotonic() - interrupted
    there.clear()
    measured = {"first line s": seen[0], "all ready s": seen[-1], "left": float(left)}
    return measured if left else {**measured, "nothing left s": took}


def sides(there: Hosts, hosts: int) -> tuple[Side, ...]:
    names = [f"host{number}" for number in range(1, hosts + 1)]
    tasks = hosts * TASKS_PER_HOST
    slots = ",".join(f"{name}:{TASKS_PER_HOST}" for name in names)
    python = sys.executable
    launch = ("env", f"--chdir={there.work}", python, "-m", "distrain", "launch", "--plain", "--python", python)
    launch += ("--workers", slots, "--", "sh", "stub.sh")
    remote = f"for each in $(seq {TASKS_PER_HOST}); do sh {shlex.quote(str(there.work))}/stub.sh & done; wait"
    loop = f"for host in {' '.join(names)}; do ssh $host {shlex.quote(remote)} & done; wait"
    pdsh = ("pdsh", "-b", "-f", str(hosts), "-w", ",".join(names), remote)

    def first_time() -> Measured:
        there.forget()
        return measure(there, launch, tasks)

    def side(name: str, argv: Sequence[str]) -> Side:
        return Side(name, lambda: measure(there, argv, tasks))

    return (
        side("distrain", launch),
        Side("distrain, first time", first_time),
        side("loop of ssh", ("bash", "-c", loop)),
        side("pdsh", pdsh),
    )


def show(measured: Mapping[int, Mapping[str, Sequence[Measured]]]) -> None:
    for quantity, title in QUANTITIES.items():
        names = list(next(iter(measured.values())))
        table = Table("hosts", "tasks", *names, title=f"scale: {title}")
        for hosts, by_side in measured.items():
            cells = [_cell([turn.get(quantity) for turn in by_side[name]]) for name in names]
            table.add_row(str(hosts), str(hosts * TASKS_PER_HOST), *cells)
        print_table(table)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return str(Spread.of(known)) if len(known) == len(values) else "never"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hosts", type=int, nargs="+", default=HOSTS, help="how many, one size after the other")
    chosen = parser.parse_args()
    if shutil.which("pdsh") is None:
        sys.exit("pdsh is missing: install it (Debian and Ubuntu: apt install pdsh)")
    measured = {}
    with opened(max(chosen.hosts)) as there:
        for hosts in chosen.hosts:
            print(f"{hosts} hosts, {hosts * TASKS_PER_HOST} tasks", file=sys.stderr)
            measured[hosts] = by_turns(sides(there, hosts), chosen.repeats)
    show(measured)
    write("scale", {"tasks_per_host": TASKS_PER_HOST, "measured": measured})


if __name__ == "__main__":
    main()
