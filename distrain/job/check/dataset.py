"""What a dataset needs, and what of its knobs means something to it."""

from __future__ import annotations

from collections.abc import Mapping

from distrain.job.check.rule import Rule, Sentence
from distrain.job.file.kinds import listed, quoted, suggestion
from distrain.job.spec import SHARDED, TFDS, JobSpec

IN_MEMORY = ("digits", "mnist", "fashion_mnist", "npz", "csv")
"""Every worker holds all of them in its memory."""
_WITHOUT_ARGUMENTS = ("digits", "mnist", "fashion_mnist", "npz")
_READ_FROM: Mapping[str, str] = {
    "npz": "the .npz file to read",
    "csv": "the file, folder or pattern to read",
    "tfrecord": "the file, folder or pattern to read",
    "image_folder": "the folder that has a folder for each class",
}


def _without_path(job: JobSpec) -> Sentence:
    if job.dataset.name not in _READ_FROM or job.dataset.path is not None:
        return None
    return f"dataset {job.dataset.name} has no path", f"give dataset.path, {_READ_FROM[job.dataset.name]}"


def _digits_with_path(job: JobSpec) -> Sentence:
    if job.dataset.name != "digits" or job.dataset.path is None:
        return None
    return (
        "dataset digits comes with distrain and reads no path",
        "remove dataset.path, or choose dataset mnist, fashion_mnist or npz to read it",
    )


def _arguments(job: JobSpec) -> Sentence:
    if not job.dataset.args or job.dataset.name not in _WITHOUT_ARGUMENTS:
        return None
    return f"dataset {job.dataset.name} takes no args", "remove dataset.args; they are for a function of your own"


def _two_validations(job: JobSpec) -> Sentence:
    if ":" in job.dataset.name or not job.dataset.args.keys() >= {"validation_split", "validation_path"}:
        return None
    return (
        "dataset.args has validation_split and validation_path",
        "keep one of them",
        "dataset.args.validation_path",
    )


def _features(job: JobSpec) -> Sentence:
    args = job.dataset.args
    if job.dataset.name != "tfrecord" or not args.keys() >= {"features", "label"}:
        return None
    features, roles = args["features"], {key: args[key] for key in ("label", "weight") if key in args}
    for role, name in roles.items():
        if name not in features:
            problem = f"dataset.args.{role} is {quoted(name)}, which is none of its features"
            return problem, suggestion(name, features, f"choose one of {listed(features)}"), f"dataset.args.{role}"
        if "image" in features[name]:
            remedy = "name one that has a dtype"
            return f"dataset.args.{role} is {quoted(name)}, which is an image", remedy, f"dataset.args.{role}"
    if (weight := roles.get("weight")) is not None and features[weight].get("shape"):
        problem = f"the weight {quoted(weight)} has a shape, and an example has one weight"
        return problem, "remove its shape", f"dataset.args.features.{weight}"
    if not features.keys() - set(roles.values()):
        problem = f"the features of dataset tfrecord are {listed(features)}, and nothing is left to feed the model"
        return problem, "add what the model is to see", "dataset.args.features"
    return None


def _columns(job: JobSpec) -> Sentence:
    args = job.dataset.args
    if job.dataset.name != "csv":
        return None
    for role in ("label", "weight"):
        if role in args and args[role] in args.get("features", ()):
            problem = f"dataset.args.features holds {quoted(str(args[role]))}, which is the {role}"
            return problem, "take it out", "dataset.args.features"
    for key in ("label", "weight"):
        if isinstance(args.get(key), str) and args.get("header") is False:
            problem = f"dataset.args.{key} is {quoted(args[key])}, and without a header columns have no names"
            return problem, "give its number, counted from 0, or remove header", f"dataset.args.{key}"
    return None


def _files_to_share(job: JobSpec) -> Sentence:
    if job.dataset.shard != "files":
        return None
    name = job.dataset.name
    if name in IN_MEMORY:
        return (
            f"dataset {name} is held in memory by every worker, and has no files to share out",
            "remove dataset.shard",
        )
    if ":" in name:
        return f"dataset.shard is files, and those behind {name} are not known to distrain", "choose shard: examples"
    if job.strategy.name == "ParameterServer":
        return (
            "dataset.shard is files, and ParameterServer's workers draw from all examples, each in an order of its own",
            "remove dataset.shard",
        )
    if job.cluster.data_workers > 0:
        return (
            "dataset.shard is files, and the data workers share out the files among themselves",
            "remove dataset.shard, or cluster.data_workers",
        )
    return None


def _nothing_to_prepare(job: JobSpec) -> Sentence:
    if job.cluster.data_workers == 0:
        return None
    name = job.dataset.name
    problem = f"cluster.data_workers is {job.cluster.data_workers}, and"
    if name in IN_MEMORY:
        remedy = (
            f"remove cluster.data_workers, or choose dataset tfrecord, image_folder, {TFDS}<name> or a function that "
            "returns a tf.data.Dataset"
        )
        return f"{problem} dataset {name} is held in memory by every worker: nothing is left to prepare", remedy
    if job.strategy.name == "ParameterServer":
        return f"{problem} ParameterServer's workers read and prepare for themselves", "remove cluster.data_workers"
    if job.training.cache:
        return f"{problem} what they prepare is not kept", "remove cluster.data_workers or training.cache"
    return None


def _order(job: JobSpec) -> Sentence:
    if job.dataset.deterministic:
        return None
    if job.training.deterministic:
        return (
            "dataset.deterministic is false, and training.deterministic asks for the same result every time",
            "set dataset.deterministic to true",
        )
    if job.strategy.name in SHARDED and job.cluster.workers > 1:
        return (
            f"dataset.deterministic is false, and under strategy {job.strategy.name} every worker must read the same "
            "examples in the same order",
            "set dataset.deterministic to true",
        )
    return None


RULES = (
    Rule(("dataset.name", "dataset.path"), _without_path),
    Rule(("dataset.path", "dataset.name"), _digits_with_path),
    Rule(("dataset.args", "dataset.name"), _arguments),
    Rule(("dataset.args", "dataset.name"), _two_validations),
    Rule(("dataset.args", "dataset.name"), _features),
    Rule(("dataset.args", "dataset.name"), _columns),
    Rule(("dataset.shard", "dataset.name", "strategy.name", "cluster.data_workers"), _files_to_share),
    Rule(("cluster.data_workers", "dataset.name", "strategy.name", "training.cache"), _nothing_to_prepare),
    Rule(
        ("dataset.deterministic", "training.deterministic", "strategy.name", "cluster.workers", "cluster.hosts"), _order
    ),
)
