"""distrain's code as it travels to a host: what the agent and the worker need, named by its hash.

The format is described, and unpacked, in `agent/bootstrap.py`. The same files give the same bytes everywhere.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PARTS = ("__init__.py", "arrival.py", "contact.py", "wire.py", "agent", "worker")
"""What travels, of the folder `distrain`."""

_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bundle:
    """`bootstrap` is the source text that unpacks `data`, whose SHA-256 is `digest`."""

    bootstrap: bytes
    data: bytes
    digest: str


@functools.cache
def open_bundle() -> Bundle:
    """The bundle of the distrain that runs now."""
    return make_bundle(_PACKAGE)


def make_bundle(package: Path) -> Bundle:
    """The bundle of the `distrain` folder `package`."""
    paths = sorted((path.relative_to(package.parent).as_posix(), path) for path in _files(package))
    data = b"".join(_entry(name, path.read_bytes()) for name, path in paths)
    bootstrap = (package / "agent" / "bootstrap.py").read_bytes()
    return Bundle(bootstrap, data, hashlib.sha256(data).hexdigest())


def _files(package: Path) -> Iterator[Path]:
    for part in PARTS:
        root = package / part
        for path in [root] if root.is_file() else root.rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__" and not path.name.startswith("."):
                yield path


def _entry(name: str, content: bytes) -> bytes:
    return f"{name}\0{len(content)}\0".encode() + content
