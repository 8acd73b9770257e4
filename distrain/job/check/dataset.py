"""What a dataset needs, and what of its knobs means something to it."""

from __future__ import annotations

from collections.abc import Mapping

from distrain.job.check.rule import Rule, Sentence
from distrain.job.file.kinds import listed, quoted, suggestion
from distrain.job.spec import SHARDED, TFDS, JobSpec

IN_MEMORY = ("digits", "mnist", "fashion_mnist", "npz", "csv")
"""Every worker holds all of them in its memory."""
_IN_FILES = ("tfrecord", "image_folder")
"""Streams whose files distrain knows, as it knows them of no other."""
_WITHOUT_ARGUMENTS = ("digits", "mnist", "fashion_mnist", "npz")
_READ_FROM: Mapping[str, str] = {
    "npz": "the .npz file to read",
    "csv": "the file, folder or pattern to read",
    "tfrecord": "the file, folder or pattern to read",
    "image_folder": "the folder that has a folder for each class",
}


def lacks_validation(job: JobSpec) -> bool:
    """Whether the dataset is sure to have no examples for validation. An image_folder may have a folder of them, and
    what others hold is known where they are.
    """
    return job.dataset.name in ("csv", "tfrecord") and not job.dataset.args.keys() & {
        "validation_split",
        "validation_path",
    }


def _in_memory(job: JobSpec) -> str:
    return f"dataset {job.dataset.name} is held in memory by every worker"


def _of_a_function(name: str) -> bool:
    return ":" in name and not name.startswith(TFDS)


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


def _shares(job: JobSpec) -> Sentence:
    shard, name = job.dataset.shard, job.dataset.name
    if shard == "auto":
        return None
    if job.strategy.name == "ParameterServer":
        return (
            f"dataset.shard is {shard}, and ParameterServer's workers take whole batches, each out of all examples",
            "remove dataset.shard",
        )
    if job.strategy.name in SHARDED and job.replicas == 1:
        return (
            f"dataset.shard is {shard}, and under strategy {job.strategy.name} all devices compute the same examples: "
            "every worker reads all of them",
            "remove dataset.shard",
        )
    if shard == "examples":
        return _dealt_out(job)
    if name in IN_MEMORY:
        return f"{_in_memory(job)}, and has no files to share out", "remove dataset.shard"
    if name not in _IN_FILES:
        return f"dataset.shard is files, and those behind {name} are not known to distrain", "choose shard: examples"
    if job.cluster.data_workers > 0:
        return (
            "dataset.shard is files, and the data workers share out the files among themselves",
            "remove dataset.shard, or cluster.data_workers",
        )
    return None


def _dealt_out(job: JobSpec) -> Sentence:
    """The service knows no shares where batches go to whoever asks first."""
    if job.cluster.data_workers == 0 or job.dataset.deterministic:
        return None
    return (
        "dataset.shard is examples, and with dataset.deterministic false the data workers are dealt files, and whoever "
        "asks first gets a batch",
        "remove dataset.shard, or dataset.deterministic",
    )


def _reads(job: JobSpec) -> Sentence:
    """Of records alone there are many in a file; an image is read when it is decoded."""
    name, given = job.dataset.name, f"dataset.parallel_reads is {job.dataset.parallel_reads},"
    if job.dataset.parallel_reads is None or name == "tfrecord":
        return None
    if name == "image_folder":
        return (
            f"{given} and dataset image_folder reads an image when it decodes it",
            "remove it, or give dataset.parallel_calls",
        )
    if name in IN_MEMORY:
        return f"{given} and {_in_memory(job)}", "remove it"
    if name.startswith(TFDS):
        return f"{given} and tensorflow_datasets reads its files in its own way", "remove it"
    return (
        f"{given} and {name} reads what it reads by itself",
        "remove it, and say so in the function, as in interleave(..., num_parallel_calls=4)",
    )


def _calls(job: JobSpec) -> Sentence:
    name, given = job.dataset.name, f"dataset.parallel_calls is {job.dataset.parallel_calls},"
    if job.dataset.parallel_calls is None:
        return None
    if name in IN_MEMORY:
        return f"{given} and {_in_memory(job)}: nothing is decoded", "remove it"
    if _of_a_function(name):
        return (
            f"{given} and {name} decodes what it decodes by itself",
            "remove it, and say so in the function, as in map(..., num_parallel_calls=4)",
        )
    return None


def _same_examples_for_all(job: JobSpec) -> Sentence:
    """Each worker of a ParameterServer job reads a stream from its beginning, at its own pace."""
    if job.training.shuffle or job.strategy.name != "ParameterServer" or job.cluster.workers == 1:
        return None
    name = job.dataset.name
    if name in IN_MEMORY or _of_a_function(name):
        return None  # steps in memory are numbered; what a function gives is known where it runs
    return (
        f"training.shuffle is false, and ParameterServer's workers read dataset {name} each from its beginning: all "
        "would train on the same examples",
        "remove training.shuffle, or choose strategy MultiWorkerMirrored",
    )


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
    if job.dataset.name in IN_MEMORY:
        return (
            f"dataset.deterministic is false, and {_in_memory(job)}: the order of its examples costs nothing",
            "remove dataset.deterministic",
        )
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
    Rule(
        ("dataset.shard", "dataset.name", "dataset.deterministic", "strategy", "cluster.data_workers"),
        _shares,
    ),
    Rule(("dataset.parallel_reads", "dataset.name"), _reads),
    Rule(("dataset.parallel_calls", "dataset.name"), _calls),
    Rule(
        ("training.shuffle", "dataset.name", "strategy.name", "cluster.workers", "cluster.hosts"),
        _same_examples_for_all,
    ),
    Rule(("cluster.data_workers", "dataset.name", "strategy.name", "training.cache"), _nothing_to_prepare),
    Rule(
        (
            "dataset.deterministic",
            "dataset.name",
            "training.deterministic",
            "strategy.name",
            "cluster.workers",
            "cluster.hosts",
        ),
        _order,
    ),
)
