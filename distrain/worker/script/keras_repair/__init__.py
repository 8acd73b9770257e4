"""Makes Keras's own `fit`, `evaluate` and `predict` work in unmodified scripts under MultiWorkerMirroredStrategy.

Owns when that happens: on import of Keras's TensorFlow trainer, so a script that never uses it pays nothing; for the
versions that it was tested with; and only what is still at fault. What is repaired is in `trainer`, what becomes of
callbacks that write is in `callbacks`. Imports neither Keras nor TensorFlow by itself.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from distrain.worker.telemetry import Events

TESTED_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
"""Of Keras, with TensorFlow 2.21."""

FAULTS = {
    "_maybe_symbolic_build": '.reduce(\n                        "MEAN"',
    "reduce_per_replica": 'strategy.reduce("MEAN", v, axis=0)',
}
"""Functions of Keras's trainer, and what stands in the source of each for as long as it is at fault."""

_TRAINER = "keras.src.backend.tensorflow.trainer"


def install(events: Events) -> None:
    """Repair Keras in this process as soon as something imports it. `events` hears of it when it first matters."""
    sys.meta_path.insert(0, _Finder(events))


def decide(version: str, sources: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Which of FAULTS to repair in Keras `version`, and the sentence that says so. `sources`: those of the functions;
    one that is missing is as it was, as far as is known.
    """
    if not any(version.startswith(f"{tested}.") for tested in TESTED_VERSIONS):
        return (), (
            f"Keras {version} is left as it is: distrain's repair of model.fit under MultiWorkerMirroredStrategy was "
            f"tested with Keras {TESTED_VERSIONS[0]} to {TESTED_VERSIONS[-1]}"
        )
    faults = tuple(name for name, sign in FAULTS.items() if sign in sources.get(name, sign))
    if not faults:
        return (), f"Keras {version} is left as it is: it needs no repair for MultiWorkerMirroredStrategy"
    return faults, (
        f"Keras {version} is repaired for model.fit under MultiWorkerMirroredStrategy ({', '.join(faults)}, "
        "steps_per_execution), and callbacks that write do so on the chief alone; --no-keras-repair leaves it as it is"
    )


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, as those after it would, and has it repaired when it has run."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._events)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads as `loader` does, and then repairs."""

    def __init__(self, loader: Any, events: Events) -> None:
        self._loader = loader
        self._events = events

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from distrain.worker.script.keras_repair import trainer

        trainer.repair(module, self._events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # `get_source` for tracebacks, and the like
