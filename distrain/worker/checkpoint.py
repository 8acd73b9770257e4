"""What the chief writes into the run directory: checkpoints, and the trained model.

A name in there is complete or absent: everything is written under a hidden name, synced and renamed.
A checkpoint `checkpoints/step-00000200/` holds `state.npz`, every variable of model and optimizer under
`model/<n>` and `optimizer/<n>`, in Keras's order, and `checkpoint.json`, which tells what they are of.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np

FORMAT = 1
MODEL_FILE = "model.keras"
FOLDER = "checkpoints"

_NAME = re.compile(r"step-\d{8,}")


class Checkpoints:
    """The newest `keep` checkpoints of a run."""

    def __init__(self, run_dir: Path, keep: int) -> None:
        self._run_dir = run_dir
        self._folder = run_dir / FOLDER
        self._keep = keep

    def save(self, model: keras.Model, *, step: int, epoch: int, seed: int) -> str:
        """Write the state after `step` steps and `epoch` whole epochs; its path, relative to the run directory."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = self._folder / f"step-{step:08d}"
        hidden = self._folder / f".{final.name}.{os.getpid()}"
        hidden.mkdir(mode=0o700)
        try:
            of_metrics = {id(variable) for variable in model.metrics_variables}
            of_model = [variable for variable in model.variables if id(variable) not in of_metrics]
            groups = {"model": of_model, "optimizer": model.optimizer.variables}
            arrays = {f"{group}/{n}": v.numpy() for group, variables in groups.items() for n, v in enumerate(variables)}
            with open(hidden / "state.npz", "xb", opener=_private) as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            about = {
                "format": FORMAT,
                "step": step,
                "epoch": epoch,
                "seed": seed,
                "keras": keras.version(),
                "variables": {group: [v.path for v in variables] for group, variables in groups.items()},
            }
            with open(hidden / "checkpoint.json", "x", encoding="utf-8", opener=_private) as file:
                json.dump(about, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(hidden)
            _remove(final)
            os.rename(hidden, final)
            _sync_folder(self._folder)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        for old in self.all()[: -self._keep]:
            _remove(old)
        return str(final.relative_to(self._run_dir))

    def all(self) -> list[Path]:
        """Those that are there, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _remove(folder: Path) -> None:
    """Remove a checkpoint such that it is never seen in part."""
    if not folder.exists():
        return
    gone = folder.with_name(f".gone-{folder.name}.{os.getpid()}")
    os.rename(folder, gone)
    shutil.rmtree(gone)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
