"""How the model learns: its loss, its learning rate, and what watches them."""

from __future__ import annotations

import re

from distrain.job.check.dataset import lacks_validation
from distrain.job.check.rule import Rule, Sentence
from distrain.job.file.keras_names import LOSSES, logged_name
from distrain.job.file.kinds import listed, quoted, suggestion
from distrain.job.spec import JobSpec

INTEGER_LABELS = ("digits", "mnist", "fashion_mnist", "image_folder")
_WATCHING = ("EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint")
_HEADS, _WIDTH = 4, 64
"""Of a transformer that says nothing of them."""


def _watched(job: JobSpec) -> Sentence:
    """A callback that watches what will never be in the logs does nothing, all run long."""
    known = _log_names(job)
    for index, callback in enumerate(job.training.callbacks):
        if callback.name not in _WATCHING:
            continue
        if callback.name == "ModelCheckpoint" and not callback.args.get("save_best_only"):
            continue
        watched = str(callback.args.get("monitor", "val_loss"))
        place = f"training.callbacks.{index}"
        places = (f"{place}.monitor", f"{place}.args.monitor", place)
        # Keras numbers the second metric of one name: auc_1.
        if known and re.sub(r"_[0-9]+$", "", watched) not in known and watched not in known:
            problem = f"callback {callback.name} watches {quoted(watched)}, which no log of this job holds"
            return (problem, suggestion(watched, known, f"choose one of {listed(known)}"), *places)
        if watched.startswith("val_") and (why := _never_validates(job)):
            reason, way_out = why
            return (
                f"callback {callback.name} watches {watched}, and {reason}",
                f"set its monitor to a training metric such as loss, or {way_out}",
                *places,
            )
    return None


def _never_validates(job: JobSpec) -> tuple[str, str] | None:
    """Why nobody who trains does, and what to do about it; None: somebody does, as far as is known."""
    if job.training.validation == 0:
        return "training.validation is false", "set training.validation to true"
    if job.cluster.evaluators > 0:
        return "beside an evaluator nobody who trains validates", "remove cluster.evaluators"
    if lacks_validation(job):
        return (
            f"dataset {job.dataset.name} has no examples for validation",
            "give dataset.args validation_split or validation_path",
        )
    return None


def _nothing_to_validate(job: JobSpec) -> Sentence:
    """Every epoch is what a job says that says nothing."""
    if job.training.validation < 2 or not lacks_validation(job):
        return None
    return (
        f"training.validation is {job.training.validation}, and dataset {job.dataset.name} has no examples for it",
        "give dataset.args validation_split or validation_path, or remove training.validation",
    )


def _no_best(job: JobSpec) -> Sentence:
    """One is what a job keeps that says nothing."""
    if job.checkpoint is None or job.checkpoint.keep_best < 2 or (why := _never_validates(job)) is None:
        return None
    reason, way_out = why
    return (
        f"checkpoint.keep_best is {job.checkpoint.keep_best}, of those with the smallest validation loss, and {reason}",
        f"remove checkpoint.keep_best, or {way_out}",
        "checkpoint.keep_best",
    )


def _swapped(job: JobSpec) -> Sentence:
    for index, callback in enumerate(job.training.callbacks):
        if callback.name != "SwapEMAWeights":
            continue
        place = f"training.callbacks.{index}"
        optimizer = job.training.optimizer
        if ":" not in optimizer.name and not optimizer.args.get("use_ema"):
            return (
                f"callback SwapEMAWeights swaps weights for their averages, and the optimizer {optimizer.name} keeps "
                "none",
                "give the optimizer use_ema: true, or remove the callback",
                place,
            )
        if not callback.args.get("swap_on_epoch") and (why := _never_validates(job)):
            reason, way_out = why
            return (
                f"callback SwapEMAWeights swaps weights for the time of validation, and {reason}",
                f"give it swap_on_epoch: true, or {way_out}",
                place,
            )
    return None


def _log_names(job: JobSpec) -> tuple[str, ...]:
    """All that Keras's logs hold at the end of an epoch; empty where the user's own code, or the names of the model's
    outputs, may add to them.
    """
    given = (job.model, *job.training.all_metrics, *job.training.callbacks)
    of_outputs = not isinstance(job.training.metrics, tuple) or len(job.training.losses) > 1
    if of_outputs or any(":" in named.name for named in given):
        return ()
    names = ("loss", *(logged_name(metric.name, metric.args) for metric in job.training.all_metrics))
    return (*names, *(f"val_{name}" for name in names), "learning_rate")


def _one_hot_loss(job: JobSpec) -> Sentence:
    wanted = ("CategoricalCrossentropy", "CategoricalFocalCrossentropy")
    loss = next((loss for loss in job.training.losses if LOSSES.class_of(loss.name) in wanted), None)
    if loss is None or job.dataset.name not in INTEGER_LABELS:
        return None
    return (
        f"training.loss is {loss.name}, and dataset {job.dataset.name} has no one-hot labels",
        "its labels are whole numbers: use sparse_categorical_crossentropy",
    )


def _two_learning_rates(job: JobSpec) -> Sentence:
    """What sets the learning rate during training overrules what else does."""
    places = [
        f"training.callbacks.{index}"
        for index, callback in enumerate(job.training.callbacks)
        if callback.name == "ReduceLROnPlateau"
    ]
    if not places:
        return None
    rate = job.training.optimizer.args.get("learning_rate")
    other = None
    if job.training.warmup_steps > 0:
        other = "training.warmup_steps"
    elif rate is not None and not isinstance(rate, int | float):
        other = "the schedule training.optimizer.learning_rate"
    if other is None:
        return None
    return f"callback ReduceLROnPlateau sets the learning rate, and so does {other}", "remove one of the two", *places


def _heads(job: JobSpec) -> Sentence:
    heads, width = job.model.args.get("heads", _HEADS), job.model.args.get("width", _WIDTH)
    if job.model.name != "transformer" or width % heads == 0:
        return None
    below = width - width % heads
    choices = f"{below} or {below + heads}" if below else str(heads)
    problem = f"model transformer has width {width}, which does not divide among its {heads} heads"
    return problem, f"the nearest that does: {choices}", "model.width", "model.args.width", "model.heads"


RULES = (
    Rule(
        (
            "training.callbacks",
            "training.validation",
            "training.metrics",
            "training.loss",
            "cluster.evaluators",
            "dataset",
            "model",
        ),
        _watched,
    ),
    Rule(("training.validation", "dataset"), _nothing_to_validate),
    Rule(("checkpoint", "training.validation", "cluster.evaluators", "dataset"), _no_best),
    Rule(
        ("training.callbacks", "training.optimizer", "training.validation", "cluster.evaluators", "dataset"), _swapped
    ),
    Rule(("training.loss", "dataset.name"), _one_hot_loss),
    Rule(("training.callbacks", "training.warmup_steps", "training.optimizer"), _two_learning_rates),
    Rule(("model",), _heads),
)
