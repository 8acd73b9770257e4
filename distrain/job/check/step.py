"""What a step computes under the job's strategy: its loss, its optimizer, and by what it is compiled."""

from __future__ import annotations

from distrain.job.check.rule import Rule, Sentence
from distrain.job.file.keras_names import LOSSES
from distrain.job.spec import SHARDED, JobSpec, Named

_CUTTING = ("Mirrored", "MultiWorkerMirrored", "TPU")
"""The strategies whose replicas each take a part of a batch, of which there is one gradient. A worker that averages
its weights takes its part for a batch of its own; under Hybrid a loss is of the whole batch.
"""
_OF_A_BATCH = ("Circle", "Dice", "Tversky")
"""Keras's losses that are of a batch and not of an example: Circle compares examples, the others add them up."""


def _cut(job: JobSpec) -> str | None:
    """What cuts a batch before its loss is computed, for a sentence; None: nothing does."""
    if job.strategy.accumulate > 1:
        return f"strategy.accumulate cuts a batch into {job.strategy.accumulate} parts"
    if job.strategy.name not in _CUTTING:
        return None
    if job.strategy.name == "TPU":
        return "the cores of a TPU each take a part of a batch"
    return f"{job.replicas} replicas each take a part of a batch" if job.replicas > 1 else None


def _uncut(job: JobSpec) -> str:
    """What to do for whole batches."""
    if job.strategy.accumulate == 1:
        return "choose strategy OneDevice or ParameterServer"
    if job.strategy.name not in _CUTTING or job.replicas == 1:
        return "remove strategy.accumulate"
    return "choose strategy OneDevice or ParameterServer without accumulate"


def _weighted_mean(job: JobSpec) -> Sentence:
    loss = next((each for each in job.training.losses if each.args.get("reduction") == "mean_with_sample_weight"), None)
    if loss is None or (cut := _cut(job)) is None:
        return None
    return (
        f"the loss {loss.name} has the reduction mean_with_sample_weight, and {cut}: each part would be divided by its "
        "own weights' sum, not the batch's",
        f"remove the reduction, or {_uncut(job)}",
    )


def _loss_of_a_batch(job: JobSpec) -> Sentence:
    loss = next((each for each in job.training.losses if _is_of_a_batch(each)), None)
    if loss is None or (cut := _cut(job)) is None:
        return None
    if LOSSES.class_of(loss.name) == "Circle":
        return f"the loss {loss.name} compares the examples of a batch, and {cut}", _uncut(job)
    return (
        f"the loss {loss.name} without the axes of an example is one number for all examples of a batch, and {cut}",
        f"give it the axes of an example, such as axis: [1, 2, 3], or {_uncut(job)}",
    )


def _is_of_a_batch(loss: Named) -> bool:
    axis = loss.args.get("axis")
    over_examples = axis is None or axis == 0 or (isinstance(axis, list | tuple) and 0 in axis)
    return LOSSES.class_of(loss.name) in _OF_A_BATCH and over_examples


def _ignored_class(job: JobSpec) -> Sentence:
    """Replicas find out in the middle of a step how many examples count, for a mean over those of the whole batch."""
    loss = next((each for each in job.training.losses if each.args.get("ignore_class") is not None), None)
    if loss is None or loss.args.get("reduction") == "sum" or (cut := _cut(job)) is None:
        return None
    if job.strategy.accumulate == 1 and not job.training.jit_compile:
        return None
    problem = f"the loss {loss.name} has ignore_class, and {cut}"
    if job.strategy.accumulate > 1:
        return problem, "remove strategy.accumulate, or ignore_class"
    return (
        f"{problem}: in a step that XLA compiles they cannot tell each other how much of it counts",
        "remove training.jit_compile, or ignore_class",
    )


def _no_number(job: JobSpec) -> Sentence:
    for loss in job.training.losses:
        if "reduction" in loss.args and loss.args["reduction"] in (None, "none"):
            return (
                f"the loss {loss.name} has the reduction none, and what a step makes smaller is one number",
                "remove the reduction, or give sum",
            )
    return None


def _parts_of_a_sum(job: JobSpec) -> Sentence:
    loss = next((each for each in job.training.losses if each.args.get("reduction") == "sum"), None)
    if job.strategy.accumulate == 1 or loss is None:
        return None
    return (
        f"strategy.accumulate is {job.strategy.accumulate}, and the loss {loss.name} has the reduction sum: parts of a "
        "batch need one that is a mean over the examples",
        "remove the reduction, or strategy.accumulate",
    )


def _accumulated(job: JobSpec) -> Sentence:
    steps = job.training.optimizer.args.get("gradient_accumulation_steps")
    if steps is None:
        return None
    where = ("training.optimizer.gradient_accumulation_steps", "training.optimizer.args.gradient_accumulation_steps")
    if job.strategy.name == "ParameterServer":
        return (
            "gradient_accumulation_steps adds up the gradients of steps that follow each other, and ParameterServer's "
            "workers take steps side by side",
            "raise dataset.batch_size, or choose MultiWorkerMirrored and strategy.accumulate in its place",
            *where,
        )
    if job.strategy.name not in ("Mirrored", "MultiWorkerMirrored"):
        return None
    remedy = "give strategy.accumulate and a larger dataset.batch_size in its place"
    if isinstance(steps, int):
        parts, size = steps * job.strategy.accumulate, steps * job.dataset.batch_size
        remedy = f"give strategy.accumulate {parts} and dataset.batch_size {size} in its place: the same, in one step"
    return (
        "gradient_accumulation_steps has Keras ask at each step whether weights are to change, and within such a "
        f"condition {job.strategy.name} cannot change them",
        remedy,
        *where,
    )


def _averages_unused(job: JobSpec) -> Sentence:
    args = job.training.optimizer.args
    if ":" in job.training.optimizer.name or "use_ema" in args:  # which may be false to see what it is good for
        return None
    for key in ("ema_overwrite_frequency", "ema_momentum"):
        if args.get(key) is not None:
            return (
                f"the optimizer's {key} is given, and without use_ema it keeps no averages of the weights",
                f"give use_ema: true, or remove {key}",
                f"training.optimizer.{key}",
                f"training.optimizer.args.{key}",
            )
    return None


def _overwritten(job: JobSpec) -> Sentence:
    args = job.training.optimizer.args
    if not args.get("use_ema") or args.get("ema_overwrite_frequency") is None:
        return None
    if job.strategy.name != "ParameterServer" or job.cluster.workers == 1:
        return None
    return (
        "the optimizer's ema_overwrite_frequency puts averages in the place of weights, and ParameterServer's other "
        "workers would lose what they change meanwhile",
        "remove it: with use_ema alone the averages become the model's weights at the end",
        "training.optimizer.ema_overwrite_frequency",
        "training.optimizer.args.ema_overwrite_frequency",
    )


def _scaled_twice(job: JobSpec) -> Sentence:
    factor = job.training.optimizer.args.get("loss_scale_factor")
    if factor is None or job.training.precision != "mixed_float16":
        return None
    return (
        f"the optimizer's loss_scale_factor is {factor}, and with training.precision mixed_float16 the loss is scaled "
        "by what Keras finds out",
        "remove loss_scale_factor, or choose mixed_bfloat16",
        "training.optimizer.loss_scale_factor",
        "training.optimizer.args.loss_scale_factor",
    )


def _scaled_by_many(job: JobSpec) -> Sentence:
    if job.training.precision != "mixed_float16" or job.strategy.name != "ParameterServer" or job.cluster.workers == 1:
        return None
    return (
        "training.precision is mixed_float16, whose scale of the loss ParameterServer's workers would change under "
        "each other's steps",
        "choose mixed_bfloat16, which needs no scale, or strategy MultiWorkerMirrored",
    )


def _xla(job: JobSpec) -> Sentence:
    name = job.strategy.name
    if not job.training.jit_compile:
        return None
    reason = None
    if name in SHARDED:
        reason = f"strategy {name} has DTensor make the step, not XLA"
    elif name == "ParameterServer":
        reason = "ParameterServer's weights live on its servers, out of reach of a step that XLA compiles"
    if reason is None:
        return None
    return f"training.jit_compile is true, and {reason}", "remove training.jit_compile"


def _deterministic(job: JobSpec) -> Sentence:
    if not job.training.deterministic or job.strategy.name != "ParameterServer":
        return None
    return (
        "training.deterministic is true, and ParameterServer's workers update the weights in no fixed order",
        "choose MultiWorkerMirrored, or remove training.deterministic",
    )


_CUTS = (
    "strategy.accumulate",
    "strategy.name",
    "strategy.mesh",
    "cluster.workers",
    "cluster.devices_per_worker",
    "cluster.hosts",
)

RULES = (
    Rule(("training.loss", *_CUTS), _weighted_mean),
    Rule(("training.loss", *_CUTS), _loss_of_a_batch),
    Rule(("training.loss", "training.jit_compile", *_CUTS), _ignored_class),
    Rule(("training.loss",), _no_number),
    Rule(("strategy.accumulate", "training.loss"), _parts_of_a_sum),
    Rule(("training.optimizer", "strategy.name", "dataset.batch_size"), _accumulated),
    Rule(("training.optimizer",), _averages_unused),
    Rule(("training.optimizer", "strategy.name", "cluster.workers", "cluster.hosts"), _overwritten),
    Rule(("training.optimizer", "training.precision"), _scaled_twice),
    Rule(("training.precision", "strategy.name", "cluster.workers", "cluster.hosts"), _scaled_by_many),
    Rule(("training.jit_compile", "strategy.name"), _xla),
    Rule(("training.deterministic", "strategy.name"), _deterministic),
)
