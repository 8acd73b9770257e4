"""What the chief writes into the run's folders: checkpoints, and the trained model.

A name in there is complete or absent: everything is written under a hidden name, synced and renamed.
A checkpoint `step-00000200/` holds `state.npz`, the arrays, and `checkpoint.json`, which tells what they are of and
their SHA-256. Every variable of model, optimizer and strategy is there under `model/<n>`, `optimizer/<n>` and
`strategy/<n>`, in Keras's order.
Reading them back is `resume`'s.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain.worker.telemetry import Events

if TYPE_CHECKING:
    import keras

FORMAT = 2
MODEL_FILE = "model.keras"
STATE_FILE = "state.npz"
ABOUT_FILE = "checkpoint.json"

_NAME = re.compile(r"step-\d{8,}")
# Who brings one, be it the chief, an agent or the launcher, calls it `.step-00000200.<hex>` until it is whole. One that
# is replaced or removed is called so too, or with `.gone-` in front or `.old` at the end, until nothing of it is left.
_HIDDEN = re.compile(r"\.(gone-)?step-\d{8,}\.[0-9a-f]+(\.old)?")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of a training at one moment, in arrays that nobody else changes. `about` goes into `checkpoint.json`;
    training stood still for `stall_s`.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    stall_s: float

    @property
    def step(self) -> int:
        return self.about["step"]

    @property
    def finite(self) -> bool:
        """Whether model and optimizer hold nothing but numbers."""
        return all(
            np.isfinite(array).all()
            for name, array in self.arrays.items()
            if name.startswith(("model/", "optimizer/")) and array.dtype.kind not in "SUb"
        )


def variables_of(model: keras.Model, of_strategy: Sequence[keras.Variable]) -> Mapping[str, list[keras.Variable]]:
    """What has to be saved of a compiled and built model and its strategy. Metrics begin anew in each epoch."""
    of_metrics = {id(variable) for variable in model.metrics_variables}
    of_model = [variable for variable in model.variables if id(variable) not in of_metrics]
    return {"model": of_model, "optimizer": list(model.optimizer.variables), "strategy": list(of_strategy)}


class Checkpoints:
    """The checkpoints in `folder`: the newest `keep`, and the `keep_best` with the smallest score.

    Training begins after `first_step`: later ones that are there already are of a future that has been given up, and go
    as soon as there is a new one.
    """

    def __init__(self, folder: Path, keep: int, keep_best: int, first_step: int = 0) -> None:
        self._folder = folder
        self._keep = keep
        self._keep_best = keep_best
        self._given_up = {path.name for path in self.all() if _step(path) > first_step}
        self._scores = {path.name: _score(path) for path in self.all()}
        # What is hidden now was left by somebody who was killed: nobody brings anything once tasks have started.
        self._hidden = [path for path in _entries(folder) if _HIDDEN.fullmatch(path.name) and path.is_dir()]

    def write(self, snapshot: Snapshot) -> Path:
        """Make `snapshot` one of them, in place of another of its step. `prune` is to follow.

        Raises:
            OSError: it cannot be written; nothing of it is left, and no other is removed.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._hidden:
            shutil.rmtree(path, ignore_errors=True)
        self._hidden = [path for path in self._hidden if path.exists()]
        final = self._folder / f"step-{snapshot.step:08d}"
        hidden = self._folder / f".{final.name}.{_mark()}"
        hidden.mkdir(mode=0o700)
        try:
            _write(hidden, snapshot)
            if final.exists():  # to remove it takes long: not before the other one is there
                self._hide(final)
            os.rename(hidden, final)
            _sync_folder(self._folder)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        self._given_up.discard(final.name)
        self._scores[final.name] = snapshot.about["score"]
        return final

    def all(self) -> list[Path]:
        """Those that are there, oldest first."""
        return checkpoints_in(self._folder)

    def prune(self) -> None:
        """Remove those whose time is over.

        Raises:
            OSError: one cannot be removed. It is tried again the next time.
        """
        there = [path for path in self.all() if path.name not in self._given_up]
        scored = [path for path in there if self._scores.get(path.name) is not None]
        best = sorted(scored, key=lambda path: (self._scores[path.name], -_step(path)))[: self._keep_best]
        kept = {*there[-self._keep :], *best}
        for path in self.all():
            if path not in kept:
                self._hide(path)
        self._given_up.clear()
        for path in list(self._hidden):
            shutil.rmtree(path)
            self._hidden.remove(path)

    def _hide(self, path: Path) -> None:
        """So that it is never seen in part while it is removed."""
        gone = path.with_name(f".gone-{path.name}.{_mark()}")
        os.rename(path, gone)
        self._hidden.append(gone)


class Writer:
    """Writes snapshots while training goes on: one at a time, and of those that wait the newest.

    One that cannot be written is told as a warning. With `finite_only`, one whose weights are not finite is not kept,
    for nothing good would come of it; `poisoned_step` is then the step of the first such (0: there was none).
    """

    def __init__(self, checkpoints: Checkpoints, run_dir: Path, events: Events, *, finite_only: bool) -> None:
        self._checkpoints = checkpoints
        self._run_dir = run_dir
        self._events = events
        self._finite_only = finite_only
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._busy = False
        self._error: Exception | None = None
        self.poisoned_step = 0
        self._thread: threading.Thread | None = None

    def submit(self, snapshot: Snapshot) -> None:
        """Have `snapshot` written, in place of one that still waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
            self._thread.start()
        with self._changed:
            # One that is about to be written is not replaced.
            self._changed.wait_for(lambda: self._waiting is None or self._busy)
            self._raise_error()
            self._waiting = snapshot
            self._changed.notify_all()

    def wait(self) -> None:
        """Until all that was submitted is on the disk, or cannot be."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or (self._waiting is None and not self._busy))
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                snapshot, self._waiting, self._busy = self._waiting, None, True
            error = None
            try:
                self._write(snapshot)
            except Exception as raised:  # noqa: BLE001 - an error of ours: the training's own thread raises it
                error = raised
            with self._changed:
                self._busy, self._error = False, self._error or error
                self._changed.notify_all()

    def _write(self, snapshot: Snapshot) -> None:
        step, started = snapshot.step, time.monotonic()
        if self._finite_only and not snapshot.finite:
            self.poisoned_step = self.poisoned_step or step
            return
        try:
            path = self._checkpoints.write(snapshot)
        except OSError as error:  # a full disk, say: the training is worth more than its checkpoint
            self._warn(f"the checkpoint of step {step} could not be written, and training goes on: {error}")
            return
        try:
            self._checkpoints.prune()
        except OSError as error:
            self._warn(f"a checkpoint whose time is over could not be removed, and takes its space: {error}")
        self._events.send(
            "checkpoint",
            path=str(path.relative_to(self._run_dir) if path.is_relative_to(self._run_dir) else path),
            step=step,
            seconds=time.monotonic() - started,
            stall_s=snapshot.stall_s,
            kept=[kept.name for kept in self._checkpoints.all()],
        )

    def _warn(self, sentence: str) -> None:
        self._events.note(sentence, level="warning")


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted((path for path in _entries(folder) if _NAME.fullmatch(path.name)), key=_step)


def save_model(model: keras.Model, run_dir: Path) -> str:
    """Write the trained model, for `keras.saving.load_model`; its path, relative to the run directory.

    Raises:
        OSError: it cannot be written. The message says where it was to be.
    """
    hidden = run_dir / f".{os.getpid()}.{MODEL_FILE}"
    try:
        model.save(hidden)
        with open(hidden, "rb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
        os.rename(hidden, run_dir / MODEL_FILE)
        _sync_folder(run_dir)
    except OSError as error:
        raise OSError(f"the trained model could not be written as {run_dir / MODEL_FILE}: {error}") from error
    finally:
        hidden.unlink(missing_ok=True)
    return MODEL_FILE


def _write(folder: Path, snapshot: Snapshot) -> None:
    with open(folder / STATE_FILE, "x+b", opener=_private) as file:
        np.savez(file, **snapshot.arrays)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"format": FORMAT, **snapshot.about, "sha256": {STATE_FILE: digest}, "size_bytes": size}
    with open(folder / ABOUT_FILE, "x", encoding="utf-8", opener=_private) as file:
        json.dump(about, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(folder)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _score(folder: Path) -> float | None:
    try:
        score = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged: it is the reader who says so
        return None
    return score if isinstance(score, float) and math.isfinite(score) else None


def _mark() -> str:
    """What tells a hidden name from any other."""
    return os.urandom(4).hex()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
