"""A task beside those that train: evaluates each new checkpoint of theirs on the whole validation set.

Owns which checkpoint is next, and when the last has come. It knows the training from its checkpoints alone, and nobody
waits for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import load_dataset
from distrain.worker.input.feed import shapes
from distrain.worker.input.pipeline import Pipeline
from distrain.worker.model.models import build_model
from distrain.worker.model.recipe import compile_model, losses_fit
from distrain.worker.model.step import build
from distrain.worker.refusal import Refusal
from distrain.worker.runtime import configure
from distrain.worker.strategies import one_device
from distrain.worker.strategies.interface import Plan
from distrain.worker.telemetry import Events
from distrain.worker.training import resume
from distrain.worker.training.checkpoint import ABOUT_FILE, checkpoints_in
from distrain.worker.training.resume import DamagedCheckpoint, Saved
from distrain.worker.training.train import make_order
from distrain.worker.vitals import Vitals

LOOK_INTERVAL_S = 0.2


def evaluate(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    """Evaluate the job's checkpoints on one device, in their order, until that of the training's end.

    Raises:
        Refusal: the job is at fault.
    """
    folder = assignment.checkpoints
    if folder is None:
        raise Refusal("an evaluator evaluates checkpoints, but the job writes none: set checkpoint")
    configure(assignment)
    strategy = one_device.open_strategy(assignment, events)
    events.phase("loading data")
    dataset = load_dataset(assignment.job["dataset"], events)
    if dataset.validation is None:
        raise Refusal(
            "an evaluator needs examples for validation, and the dataset has none: "
            "give it some, or set cluster.evaluators to 0"
        )
    order = make_order(dataset, assignment, Events(None))
    events.phase("building the model")
    with strategy.scope():
        model = build_model(assignment.job["model"], dataset)
        compile_model(model, assignment.training, assignment.batch_size)
        with losses_fit():
            build(model, *shapes(dataset.train))
    strategy.bind(Plan(model, dataset, order, Pipeline.of(assignment), assignment.training["jit_compile"], None))
    events.ready(parameters=model.count_params(), replicas=1)
    for saved, arrays in _checkpoints(folder, assignment, events, vitals):
        with strategy.scope():
            saved.assign_model(model, arrays)
        vitals.step = saved.about["step"]
        events.phase("validating")
        with vitals.within("step"):
            found = strategy.evaluate()
        events.send(
            "metrics",
            epoch=saved.about["epoch"] + (not saved.about["epoch_ended"]),
            step=saved.about["step"],
            split="validation",
            metrics=found,
            examples_per_s=None,
        )
    events.send("done")


def _checkpoints(
    folder: Path, assignment: Assignment, events: Events, vitals: Vitals
) -> Iterator[tuple[Saved, Mapping[str, np.ndarray]]]:
    """Each checkpoint of this training, with its arrays, but for those whose time was over before their turn came; the
    last is that of the training's end.
    """
    about: Mapping[str, Any] = {}
    while not (about and _ends(about, assignment)):
        events.phase("waiting for a checkpoint")
        with vitals.within("serving"):
            path, about = _next(folder, assignment, about)
        try:
            saved = resume.load({"path": path, "skip_to": None})
            arrays = saved.read()
        except (DamagedCheckpoint, OSError) as error:
            if path.exists():  # it was not just removed because its time was over
                events.note(f"the checkpoint of step {about['step']} is not evaluated: {error}", level="warning")
            continue
        yield saved, arrays


def _ends(about: Mapping[str, Any], assignment: Assignment) -> bool:
    """Whether nothing comes after that checkpoint; a job that goes on from another's may have more epochs."""
    epochs = assignment.training["epochs"]
    return about["stopped"] or (about["epoch_ended"] and about["epoch"] >= epochs)


def _next(folder: Path, assignment: Assignment, last: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any]]:
    """The oldest checkpoint of this training that is further than `last`, and what it says of itself, once there is."""
    while True:
        for path, about in _of_this_training(folder, assignment):
            if not last or _reached(about) > _reached(last):
                return path, about
        time.sleep(LOOK_INTERVAL_S)


def _reached(about: Mapping[str, Any]) -> tuple[int, bool]:
    """How far training was. One of an epoch's end takes the place of one of the same step before that."""
    return about["step"], about["epoch_ended"]


def _of_this_training(folder: Path, assignment: Assignment) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """What this attempt began with, and then what it has written, oldest first. Others may be there: of a future that
    was given up, or of another run, in a folder that runs share.
    """
    if assignment.resume and (about := _about(path := Path(assignment.resume["path"]))):
        yield path, about
    for path in checkpoints_in(folder):
        about = _about(path)
        if (about.get("run"), about.get("attempt")) == (assignment.run, assignment.attempt):
            yield path, about


def _about(path: Path) -> Mapping[str, Any]:
    """Empty: it is gone by now, or damaged."""
    try:
        return json.loads((path / ABOUT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
