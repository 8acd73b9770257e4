"""Hosts for the benchmarks: those of scripts/netlab, on this one machine, whose cores they share. Needs root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NETLAB = Path(__file__).resolve().parents[1] / "scripts" / "netlab"
_BURST_BYTES = 128 * 1024
"""More than passes at 100 Mbit/s between two ticks of the kernel's clock."""


@dataclass(frozen=True)
class Lab:
    """`namespaces`: of each host, by its name."""

    folder: Path
    namespaces: Mapping[str, str]

    @property
    def path(self) -> str:
        """A PATH with an ssh that finds the hosts."""
        return f"{self.folder}/bin:{os.environ['PATH']}"

    def slow(self, megabits_per_s: float) -> None:
        """From now on no host sends faster than that. Once."""
        limit = ("tbf", "rate", f"{megabits_per_s:g}mbit", "burst", str(_BURST_BYTES), "latency", "200ms")
        for namespace in self.namespaces.values():
            inside = ("ip", "netns", "exec", namespace)
            subprocess.run((*inside, "tc", "qdisc", "add", "dev", "eth0", "root", *limit), check=True)

    def sent_bytes(self) -> int:
        """What all hosts have sent so far, as their network interfaces count it: every header included."""
        total = 0
        for namespace in self.namespaces.values():
            told = subprocess.run(
                ("ip", "-netns", namespace, "-json", "-statistics", "link", "show", "eth0"),
                capture_output=True,
                check=True,
            )
            total += json.loads(told.stdout)[0]["stats64"]["tx"]["bytes"]
        return total


@contextmanager
def lab(name: str, hosts: int, shown: Sequence[str] = ()) -> Iterator[Lab]:
    """`hosts` hosts, called host1 and so on, that see the folders `shown`, this Python's among them. Ends the program
    where there can be none.
    """
    folder = Path(f"/run/netlab-{name}-{os.getpid()}")
    netlab = (str(_NETLAB), "--dir", str(folder))
    words = [word for each in (*shown, sys.prefix, sys.base_prefix) for word in ("--show", each)]
    made = subprocess.run((*netlab, "up", str(hosts), *words), check=False)
    if made.returncode:
        sys.exit(made.returncode)
    try:
        record = json.loads((folder / "lab.json").read_text())
        yield Lab(folder, {host["name"]: host["namespace"] for host in record["hosts"]})
    finally:
        subprocess.run((*netlab, "down"), check=True)
