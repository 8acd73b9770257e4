"""What tasks on a far host leave in their run directory, put together in the run directory here.

Owns where each artifact belongs, and which checkpoints are kept. What is visible here is whole, as `arrival` has it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from distrain.arrival import Arrival, discard, hidden_beside
from distrain.errors import DistrainError, HostError
from distrain.wire import FilePart

_OURS = frozenset(
    (
        ".lock",
        ".agents",
        "job.yaml",
        "plan.json",
        "events.jsonl",
        "metrics.jsonl",
        "summary.json",
        "launcher.log",
        "logs",
        "stacks",
        "from",
    )
)
"""What the launcher writes itself: nothing that arrives may take its place."""

_CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(r"step-(\d+)")
_MODEL = "model.keras"


class Incoming:
    """What comes from one host into `run_dir`, below `prefix`."""

    def __init__(self, run_dir: Path, *, prefix: str) -> None:
        self._run_dir = run_dir
        self._prefix = PurePosixPath(prefix)
        self._kept: frozenset[str] = frozenset()
        """The checkpoints that the chief had when it last told of them."""
        self._dropped: frozenset[str] = frozenset()
        """Those that it had before, and has no more."""
        self._host = self._prefix.name or "the chief's host"
        self._artifact: str | None = None
        self._arrival: Arrival | None = None

    def take(self, part: FilePart) -> str | None:
        """The next part. Returns the path, relative to the run directory, of what became visible by it.

        Raises:
            DistrainError: the artifact cannot be kept here. What else comes of it is passed over.
            HostError: the host sends what no agent does.
        """
        if part.begins:
            self.abandon()
            self._artifact = part.artifact
            self._arrival = self._begun(part.artifact)
        if part.artifact != self._artifact:
            raise HostError(f"{self._host}: a part of {part.artifact!r} came out of order; update distrain")
        if self._arrival is None:
            return None
        try:
            self._arrival.take(part)
        except ValueError as error:
            raise self._outside(part.path) from error
        except OSError as error:
            self._arrival = None
            raise DistrainError(
                f"{_shown(part.artifact)} of {self._host} cannot be kept in {self._run_dir} "
                f"({error.strerror or error}); free some space there, or choose another place with --runs-dir"
            ) from error
        if not part.ends:
            return None
        self._arrival = None
        path = self._prefix / part.artifact
        if path.parent.name == _CHECKPOINTS:
            self._thin_out()
        return str(path)

    def abandon(self) -> None:
        """Forget the artifact that is not whole yet, and remove what there is of it."""
        if self._arrival is not None:
            self._arrival.abandon()
            self._arrival = None

    def keep_only(self, names: Iterable[str]) -> None:
        """The chief has the checkpoints of these `names`. What it had and has no more goes here, too, but for the
        newest that is here, until a newer one has arrived. What it never had, as it began on a new host, stays.
        """
        kept = frozenset(names)
        self._dropped = (self._dropped | self._kept) - kept
        self._kept = kept
        self._thin_out()

    def _thin_out(self) -> None:
        checkpoints = self._run_dir / self._prefix / _CHECKPOINTS
        if not self._dropped or not checkpoints.is_dir():
            return
        numbered = [(int(found[1]), name) for name in os.listdir(checkpoints) if (found := _CHECKPOINT.fullmatch(name))]
        for _, name in sorted(numbered)[:-1]:
            if name in self._dropped:
                gone = hidden_beside(str(checkpoints / name))
                with suppress(OSError):  # one that cannot be removed now is removed with the next
                    os.rename(checkpoints / name, gone)
                    discard(gone)

    def _begun(self, artifact: str) -> Arrival:
        first = artifact.partition("/")[0]
        if self._prefix == PurePosixPath() and first in _OURS:
            raise DistrainError(
                f"{_shown(artifact)} of {self._host} is not kept: {first} in a run directory is distrain's own; "
                "let the program write it elsewhere, such as below DISTRAIN_OUTPUT_DIR"
            )
        lasting = first == _CHECKPOINTS or artifact == _MODEL
        try:
            return Arrival(str(self._run_dir / self._prefix), artifact, lasting=lasting)
        except ValueError as error:
            raise self._outside(artifact) from error

    def _outside(self, path: str) -> HostError:
        return HostError(f"{self._host}: it sent {path!r}, which would be written outside of the run directory")


def _shown(path: str) -> str:
    """`path` with nothing in it that could upset a terminal."""
    return path if path.isprintable() else repr(path)
