"""The checkpoints of a run: where they are, which of them are whole, and which one to go on from.

The chief writes them, in the worker, and thins them out; here they are only read, verified and copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.errors import DistrainError
from distrain.job.spec import JobSpec
from distrain.launcher.runs.rundir import RunDir

FORMAT = 2
"""Of `checkpoint.json`. What was written in another cannot be gone on from."""

FOLDER = "checkpoints"
"""Inside of the run directory."""

_NAME = re.compile(r"step-\d{8,}")
ABOUT = "checkpoint.json"
_STATE = "state.npz"
_MOST_ABOUT_BYTES = 64 << 20
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole, after `step` steps. `epoch` counts whole epochs that are done, and `steps_per_epoch`,
    `batch_size`, `seed` and `workers` are those of the attempt that wrote it. `finished`: training had ended there.
    """

    step: int
    path: Path
    name: str
    epoch: int
    attempt: int
    steps_per_epoch: int
    batch_size: int
    seed: int
    workers: int
    finished: bool

    @property
    def in_mid_epoch(self) -> bool:
        return self.step != self.epoch * self.steps_per_epoch


def folder_of(rundir: RunDir, job: JobSpec) -> Path:
    """Where the run's checkpoints are, on this machine."""
    if job.checkpoint is not None and job.checkpoint.path is not None:
        return Path(os.path.abspath(job.checkpoint.path), rundir.name)
    return rundir.path / FOLDER


def choose(rundir: RunDir, job: JobSpec, *, before: int | None = None) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest whole checkpoint of the run, of fewer than `before` steps if that is given; None: there is none.

    With it comes a sentence for each newer one that is damaged. Reads each file that it judges to its end.
    """
    found: Checkpoint | None = None
    damaged: list[tuple[str, str]] = []
    for path in reversed(_named(folder_of(rundir, job))):
        if before is not None and _step(path) >= before:
            continue
        try:
            found = _verified(path)
            break
        except _Damaged as error:
            if path.is_dir():  # else the chief has thinned it out meanwhile
                damaged.append((path.name, str(error)))
    instead = f"{found.name} is taken in its place" if found else "there is none before it, so training begins anew"
    return found, tuple(f"the checkpoint {name} is damaged: {wrong}; {instead}" for name, wrong in damaged)


def copy(checkpoint: Checkpoint, folder: Path) -> None:
    """Put a copy of it into `folder`, complete or not at all; one that is there under its name is replaced.

    Raises:
        DistrainError: it cannot be written.
    """
    final, mark = folder / checkpoint.name, os.urandom(4).hex()
    hidden, gone = folder / f".{checkpoint.name}.{mark}", folder / f".gone-{checkpoint.name}.{mark}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden.mkdir(mode=0o700)
        try:
            for file in checkpoint.path.iterdir():
                shutil.copyfile(file, hidden / file.name)
                (hidden / file.name).chmod(0o600)
                _sync(hidden / file.name)
            if final.exists():  # never without either
                os.rename(final, gone)
            os.rename(hidden, final)
            _sync(folder)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(gone, ignore_errors=True)
    except OSError as error:
        raise DistrainError(
            f"the checkpoint {checkpoint.path} cannot be copied to {folder}: {error.strerror or error}; "
            "free some space there, or choose another place"
        ) from error


class _Damaged(Exception):
    """What is wrong with a checkpoint, after its name and a colon."""


def _named(folder: Path) -> list[Path]:
    """Those that are there, oldest first."""
    try:
        paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(paths, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _verified(path: Path) -> Checkpoint:
    about = _about(path)
    try:
        checkpoint = Checkpoint(
            step=int(about["step"]),
            path=path,
            name=path.name,
            epoch=int(about["epoch"]),
            attempt=int(about["attempt"]),
            steps_per_epoch=int(about["steps_per_epoch"]),
            batch_size=int(about["batch_size"]),
            seed=int(about["seed"]),
            workers=int(about["workers"]),
            finished=bool(about["finished"]),
        )
        sums = {str(name): str(digest) for name, digest in about["sha256"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Damaged(f"{ABOUT} lacks {error}" if isinstance(error, KeyError) else f"{ABOUT} is odd") from error
    if checkpoint.step != _step(path):
        raise _Damaged(f"{ABOUT} is of step {checkpoint.step}")
    if _STATE not in sums:
        raise _Damaged(f"{ABOUT} has no checksum of {_STATE}")
    for name, digest in sums.items():
        if os.path.basename(name) != name:
            raise _Damaged(f"{ABOUT} names a file elsewhere, {name!r}")
        if _sha256(path / name) != digest:
            raise _Damaged(f"{name} does not have the checksum that it was written with")
    return checkpoint


def _about(path: Path) -> Mapping[str, Any]:
    try:
        with open(path / ABOUT, "rb") as file:
            about = json.loads(file.read(_MOST_ABOUT_BYTES))
    except OSError as error:
        raise _Damaged(f"{ABOUT} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _Damaged(f"{ABOUT} is no JSON") from error
    if not isinstance(about, dict):
        raise _Damaged(f"{ABOUT} is no JSON object")
    if about.get("format") != FORMAT:
        raise _Damaged(f"it has the format {about.get('format')!r}, and this distrain reads {FORMAT}")
    return about


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
    except OSError as error:
        raise _Damaged(f"{path.name} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
