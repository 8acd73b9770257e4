"""From a job's `dataset` to examples: the built-in names, and `package.module:function`.

Owns which names there are and what each takes. Batches, order and shards are the training loop's.

Those in memory run no TensorFlow op. Streams and a user's function may, and so belong after the strategy is made,
which must come before the first op.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import numpy as np

from distrain.worker.datasets import csv_file, image_folder, mnist, npz, tfds, tfrecord
from distrain.worker.datasets.examples import Dataset, InMemory, Pixels, Stream, in_memory, of_arrays
from distrain.worker.datasets.returned import dataset_from
from distrain.worker.names import check_arguments, parameters, resolve
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

__all__ = ["Dataset", "InMemory", "Stream", "load_dataset"]


def load_dataset(spec: Mapping[str, Any], events: Events) -> Dataset:
    """Load what the job's `dataset` names.

    `spec` has `name`, `path` (str or None) and `args`. What a download does is told to `events`.

    Raises:
        Refusal: there is no such dataset, or its files, arguments or return value are wrong.
        Exception: whatever a user's function raises.
    """
    name, path, args = spec["name"], spec.get("path"), dict(spec.get("args") or {})
    if name.startswith(tfds.PREFIX):
        return _called(functools.partial(tfds.load, name.removeprefix(tfds.PREFIX)), name, path, args)
    if ":" in name:
        return _from_function(name, path, args)
    if name in _OF_FILES:
        return _called(_OF_FILES[name], name, path, args)
    if name not in _BUILT_IN:
        known = sorted((*_BUILT_IN, *_OF_FILES), key=lambda one: -difflib.SequenceMatcher(None, name, one).ratio())
        raise Refusal(
            f"there is no dataset {name!r}: there are {', '.join(known)}, tfds:<name>, and package.module:function"
        )
    if args:
        raise Refusal(f"dataset {name} takes no args, but was given {', '.join(args)}")
    return _BUILT_IN[name](path, events)


def _called(load: Callable[..., Dataset], name: str, path: str | None, args: dict[str, Any]) -> Dataset:
    check_arguments(functools.partial(load, path), f"dataset {name}", args)
    return load(path, **args)


def _digits(path: str | None, events: Events) -> Dataset:
    if path is not None:
        raise Refusal("dataset digits is part of distrain: leave dataset.path out, or name the dataset that is there")
    file = resources.files(__name__) / "data" / "digits.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        train, validation = (
            in_memory(arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int32), split, Pixels(16))
            for split in ("train", "test")
        )
    return of_arrays(train, validation, "digits:")


_BUILT_IN: Mapping[str, Callable[[str | None, Events], Dataset]] = {
    "digits": _digits,
    "npz": lambda path, events: npz.load(path),
    **{name: functools.partial(mnist.load, source) for name, source in mnist.SOURCES.items()},
}


_OF_FILES: Mapping[str, Callable[..., Dataset]] = {
    "csv": csv_file.load,
    "tfrecord": tfrecord.load,
    "image_folder": image_folder.load,
}


def _from_function(name: str, path: str | None, args: dict[str, Any]) -> Dataset:
    function = resolve(name)
    if path is not None:
        if "path" not in (parameters(function) or {}):
            raise Refusal(f"{name} takes no path, but dataset.path is {path!r}: leave it out, or give it under args")
        args = {"path": path, **args}
    check_arguments(function, name, args)
    return dataset_from(functools.partial(function, **args), name)
