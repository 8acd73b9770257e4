"""What tasks on a far host leave in their run directory, put together in the run directory here.

Owns the files that are not whole yet, where each artifact belongs, and which checkpoints are kept. What is visible
here is whole: everything is written under a hidden name and renamed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

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

_SYNC_BYTES = 64 << 20
"""Synced this often, a large file does not keep everything else waiting at its end."""

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
        self._hidden: Path | None = None
        self._file: IO[bytes] | None = None
        self._unsynced_bytes = 0

    def take(self, part: FilePart) -> str | None:
        """The next part. Returns the path, relative to the run directory, of what became visible by it.

        Raises:
            DistrainError: the artifact cannot be kept here. What else comes of it is passed over.
            HostError: the host sends what no agent does.
        """
        if part.begins:
            self.abandon()
            self._artifact = part.artifact
            final = self._final(part.artifact)
            self._hidden = final.with_name(f".{final.name}.{os.urandom(4).hex()}")
        if part.artifact != self._artifact:
            raise HostError(f"{self._host}: a part of {part.artifact!r} came out of order; update distrain")
        if self._hidden is None:
            return None
        try:
            self._write(part, self._hidden)
            if not part.ends:
                return None
            return self._publish(part.artifact)
        except OSError as error:
            self.abandon()
            raise DistrainError(
                f"{_shown(part.artifact)} of {self._host} cannot be kept in {self._run_dir} "
                f"({error.strerror or error}); free some space there, or choose another place with --runs-dir"
            ) from error

    def abandon(self) -> None:
        """Forget the artifact that is not whole yet, and remove what there is of it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if self._hidden is not None:
            _remove(self._hidden)
        self._file = self._hidden = None

    def keep_only(self, names: Iterable[str]) -> None:
        """The chief has the checkpoints of these `names`. What it had and has no more goes here, too, but for the
        newest that is here, until a newer one has arrived. What it never had, as it began on a new host, stays.
        """
        kept = frozenset(names)
        self._dropped = (self._dropped | self._kept) - kept
        self._kept = kept
        self._thin_out()

    def _write(self, part: FilePart, hidden: Path) -> None:
        if self._file is None:
            place = hidden / self._inside(part.path)
            _make_folder(place.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = open(os.open(place, flags, 0o700 if part.executable else 0o600), "wb")  # noqa: SIM115
        self._file.write(part.data)
        self._unsynced_bytes += len(part.data)
        lasting = part.artifact.startswith(f"{_CHECKPOINTS}/") or part.artifact == _MODEL
        if lasting and (part.ends_file or self._unsynced_bytes >= _SYNC_BYTES):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unsynced_bytes = 0
        if part.ends_file:
            self._file.close()
            self._file = None

    def _publish(self, artifact: str) -> str:
        assert self._hidden is not None
        final = self._final(artifact)
        if final.is_dir() or (self._hidden.is_dir() and final.exists()):
            # Nothing but an empty folder is replaced by a rename alone.
            replaced = final.with_name(f"{self._hidden.name}.old")
            os.rename(final, replaced)
            os.rename(self._hidden, final)
            _remove(replaced)
        else:
            os.rename(self._hidden, final)
        self._hidden = None
        if final.parent.name == _CHECKPOINTS:
            self._thin_out()
        return str(final.relative_to(self._run_dir))

    def _thin_out(self) -> None:
        checkpoints = self._run_dir / self._prefix / _CHECKPOINTS
        if not self._dropped or not checkpoints.is_dir():
            return
        numbered = [(int(found[1]), name) for name in os.listdir(checkpoints) if (found := _CHECKPOINT.fullmatch(name))]
        for _, name in sorted(numbered)[:-1]:
            if name in self._dropped:
                gone = checkpoints / f".{name}.{os.urandom(4).hex()}"
                with suppress(OSError):  # one that cannot be removed now is removed with the next
                    os.rename(checkpoints / name, gone)
                    _remove(gone)

    def _final(self, artifact: str) -> Path:
        """Where it becomes visible."""
        inside = self._inside(artifact)
        if not inside.parts:
            raise HostError(f"{self._host}: it sent something without a name; update distrain")
        if self._prefix == PurePosixPath() and inside.parts[0] in _OURS:
            raise DistrainError(
                f"{_shown(artifact)} of {self._host} is not kept: {inside.parts[0]} in a run directory is distrain's "
                "own; let the program write it elsewhere, such as below DISTRAIN_OUTPUT_DIR"
            )
        return self._run_dir / self._prefix / inside

    def _inside(self, path: str) -> PurePosixPath:
        """`path`, which must stay inside of where it is put.

        Raises:
            HostError: it would not.
        """
        inside = PurePosixPath(path)
        if inside.is_absolute() or ".." in inside.parts or "\0" in path:
            raise HostError(f"{self._host}: it sent {path!r}, which would be written outside of the run directory")
        return inside


def _make_folder(folder: Path) -> None:
    """Make it and those above it that are not there, all of them private."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700)


def _shown(path: str) -> str:
    """`path` with nothing in it that could upset a terminal."""
    return path if path.isprintable() else repr(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
