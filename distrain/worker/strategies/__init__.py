"""Strategies by name, and what a task does: train under one, or serve those that train."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from distrain.worker.assignment import Assignment
from distrain.worker.telemetry import Events
from distrain.worker.vitals import Vitals

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
    """Import whatever a task may need, as is possible before it is known which task it is. Runs no op."""
    for module in ("training", "evaluator"):
        importlib.import_module(f"distrain.worker.{module}")
    for module in _MODULES.values():
        importlib.import_module(f"{__name__}.{module}")


def open_strategy(assignment: Assignment, events: Events) -> Strategy:
    """The job's strategy, connected to the other tasks: waits for those that are not there yet."""
    name = assignment.job["strategy"]["name"]
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return module.open_strategy(assignment, events)


def carry_out(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    """Do the task's part of its run.

    Raises:
        Preempted: it was asked to leave, and everything is done for that.
    """
    from distrain.worker import data_service
    from distrain.worker.evaluator import evaluate
    from distrain.worker.strategies import parameter_server
    from distrain.worker.training import train

    if assignment.role == "evaluator":
        evaluate(assignment, events, vitals)
    elif assignment.role in ("dispatcher", "data"):
        data_service.serve(assignment, events, vitals)
    elif assignment.job["strategy"]["name"] == "ParameterServer" and not assignment.chief:
        parameter_server.serve(assignment, events, vitals)
    else:
        train(assignment, events, vitals, open_strategy)
