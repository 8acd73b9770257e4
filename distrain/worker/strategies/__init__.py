"""Strategies by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from distrain.worker.assignment import Assignment
from distrain.worker.telemetry import Events

if TYPE_CHECKING:
    from distrain.worker.strategies.interface import Strategy

_MODULES = {
    "OneDevice": "one_device",
    "Mirrored": "mirrored",
    "MultiWorkerMirrored": "multi_worker_mirrored",
    "ParameterServer": "parameter_server",
    "ParameterAveraging": "averaging",
    "ModelParallel": "sharded",
    "Hybrid": "sharded",
    "TPU": "tpu",
}


def import_all() -> None:
    """Import every strategy. Runs no op."""
    for module in _MODULES.values():
        importlib.import_module(f"{__name__}.{module}")


def open_strategy(assignment: Assignment, events: Events) -> Strategy:
    """The job's strategy, connected to the other tasks: waits for those that are not there yet."""
    name = assignment.job["strategy"]["name"]
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return module.open_strategy(assignment, events)
