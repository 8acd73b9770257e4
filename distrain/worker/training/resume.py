"""Going on from a checkpoint: whether it is whole, and how its arrays become the variables of model and optimizer.

`checkpoint` writes it; what else it holds is `place`'s, `replicas`' and `callback_states`'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from distrain.worker.refusal import Ending, Refusal
from distrain.worker.training.checkpoint import ABOUT_FILE, FORMAT, STATE_FILE, variables_of
from distrain.worker.training.place import Place


class DamagedCheckpoint(Ending):
    """The checkpoint to go on from is not whole."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"the checkpoint {path} is damaged: {what}; go on from another one, or remove it", "checkpoint", path=path
        )


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found whole; training goes on at `place`."""

    path: Path
    about: Mapping[str, Any]
    place: Place

    def read(self) -> Mapping[str, np.ndarray]:
        """Its arrays. Among them `metrics`, each replica's, unless its epoch has ended, and `replicas`, their own
        variables.
        """
        with np.load(self.path / STATE_FILE, allow_pickle=False) as stored:
            return dict(stored)

    def assign(
        self,
        model: keras.Model,
        of_strategy: Sequence[keras.Variable],
        steps_per_epoch: int,
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        """Set all variables of model, optimizer and strategy to `arrays`. Called in the strategy's scope.

        Raises:
            Refusal: the checkpoint is not one of this model, or of epochs of so many steps. Nothing has changed.
        """
        if (there := self.about["steps_per_epoch"]) != steps_per_epoch:
            raise Refusal(
                f"the checkpoint {self.path} is of epochs of {there} steps, but here they have {steps_per_epoch}: "
                "go on with the dataset, dataset.batch_size and training.steps_per_epoch that it was written with"
            )
        groups = variables_of(model, of_strategy)
        for group, variables in groups.items():
            self._check(group, variables, arrays)
        for group, variables in groups.items():
            self._set(group, variables, arrays)

    def assign_model(self, model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the variables of `model` alone to `arrays`, for somebody who does not go on training it.

        Raises:
            Refusal: the checkpoint is not one of this model. Nothing has changed.
        """
        variables = variables_of(model, ())["model"]
        self._check("model", variables, arrays)
        self._set("model", variables, arrays)

    def _set(self, group: str, variables: Sequence[keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
        for n, variable in enumerate(variables):
            array = arrays[f"{group}/{n}"]
            # NumPy's format does not know types such as bfloat16, and keeps their bytes.
            variable.assign(array.view(np.dtype(variable.dtype)) if array.dtype.kind == "V" else array)

    def _check(self, group: str, variables: Sequence[keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
        paths = self.about["variables"][group]
        for n, (path, variable) in enumerate(zip(paths, variables, strict=False)):
            if (shape := arrays[f"{group}/{n}"].shape) != (wanted := tuple(variable.shape)):
                raise self._refusal(f"its {path} has the shape {shape}, where the job's {variable.path} has {wanted}")
        if len(paths) != len(variables):
            raise self._refusal(f"its {group} has {len(paths)} variables, the job's has {len(variables)}")

    def _refusal(self, what: str) -> Refusal:
        return Refusal(
            f"the checkpoint {self.path} is of another model or optimizer: {what}; go on with the job that it was "
            "written by, or start anew"
        )


def load(resume: Mapping[str, Any]) -> Saved:
    """The checkpoint that an assignment says to go on from.

    Raises:
        DamagedCheckpoint: it is not there, or not whole.
    """
    path = Path(resume["path"])
    try:
        about = json.loads((path / ABOUT_FILE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise DamagedCheckpoint(path, f"it has the format {about['format']}, where {FORMAT} is known")
        with open(path / STATE_FILE, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"][STATE_FILE]:
                raise DamagedCheckpoint(path, f"{STATE_FILE} is not what was written (its SHA-256 differs)")
        return Saved(path, about, Place.of(about, resume["skip_to"]))
    except OSError as error:
        raise DamagedCheckpoint(path, f"{error.filename or path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(path, f"{ABOUT_FILE} is not what was written ({error!r})") from error
