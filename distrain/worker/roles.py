"""What a task does, by its role: train, evaluate, or serve those that train."""

from __future__ import annotations

import importlib

from distrain.worker.assignment import Assignment
from distrain.worker.telemetry import Events
from distrain.worker.vitals import Vitals


def import_all() -> None:
    """Import whatever a task may need, as is possible before it is known which task it is. Runs no op."""
    from distrain.worker import strategies

    for module in ("train", "evaluator"):
        importlib.import_module(f"distrain.worker.training.{module}")
    strategies.import_all()


def carry_out(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    """Do the task's part of its run.

    Raises:
        Preempted: it was asked to leave, and everything is done for that.
    """
    from distrain.worker.input import data_service
    from distrain.worker.strategies import parameter_server
    from distrain.worker.training.evaluator import evaluate
    from distrain.worker.training.train import train

    if assignment.role == "evaluator":
        evaluate(assignment, events, vitals)
    elif assignment.role in ("dispatcher", "data"):
        data_service.serve(assignment, events, vitals)
    elif assignment.job["strategy"]["name"] == "ParameterServer" and not assignment.chief:
        parameter_server.serve(assignment, events, vitals)
    else:
        train(assignment, events, vitals)
