"""The datasets `tfds:<name>`: those of tensorflow_datasets, where that is installed."""

from __future__ import annotations

import fcntl
import importlib
import os
from collections.abc import Sequence
from typing import Any

from distrain.worker.datasets.examples import Dataset, Stream
from distrain.worker.datasets.found import whole_numbers
from distrain.worker.refusal import Refusal

PREFIX = "tfds:"
_FILES_AT_ONCE = 16
"""Always the same number, for the order of the examples depends on it."""


def load(
    name: str,
    path: str | None,
    split: str = "train",
    validation: str | None = None,
    image_size: Sequence[int] | None = None,
    download: bool = False,
) -> Dataset:
    """`(input, label)` of the dataset `name`, images of uint8 as float32 of 0..1, resized to `image_size` where given.

    `path` is tensorflow_datasets' own folder, by default the one that it knows itself. `validation`: the split for
    validation, by default `validation` or else `test`, where the dataset has one. `download`: fetch and prepare the
    dataset where it is not there.

    Raises:
        Refusal: tensorflow_datasets is not installed, has no such dataset or split, or it is not there.
    """
    what = f"dataset {PREFIX}{name}"
    try:
        tfds = importlib.import_module("tensorflow_datasets")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise Refusal(f"{what} needs a package that is not installed: pip install tensorflow-datasets") from error
    if image_size is not None and not whole_numbers(image_size, 2):
        raise Refusal(f"{what}: args.image_size is {image_size!r}: write [height, width]")
    try:
        builder = tfds.builder(name, **({} if path is None else {"data_dir": os.path.expanduser(path)}))
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise Refusal(f"{what}: tensorflow_datasets has none of that name: {str(error).splitlines()[0]}") from error
    if not os.path.isdir(os.fspath(builder.data_path)):
        if not download:
            raise Refusal(
                f"{what} is not in {builder.data_path}: prepare it there on each host with `tfds build {name}`, or set "
                "dataset.args.download: true"
            )
        _prepare(builder)
    splits = builder.info.splits
    if validation is None:
        validation = next((known for known in ("validation", "test") if known in splits and known != split), None)
    supervised = builder.info.supervised_keys
    if not supervised or len(supervised) != 2:
        raise Refusal(f"{what} does not say which feature is the label: load it in a function of your own")
    label = builder.info.features[supervised[1]] if isinstance(supervised[1], str) else None
    train = _stream(tfds, builder, split, image_size, what)
    shape = tuple(_example_shape(train))
    return Dataset(
        train=train,
        validation=None if validation is None else _stream(tfds, builder, validation, image_size, what),
        input_shape=shape,
        classes=getattr(label, "num_classes", None),
    )


def _prepare(builder: Any) -> None:
    """One of the host's tasks does it, the others wait."""
    folder = os.path.dirname(os.fspath(builder.data_path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor = os.open(os.path.join(folder, ".distrain-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        builder.download_and_prepare()  # nothing to do where another task has just done it
    finally:
        os.close(descriptor)


def _stream(tfds: Any, builder: Any, split: str, image_size: Sequence[int] | None, what: str) -> Stream:
    try:
        size = int(builder.info.splits[split].num_examples)
    except (KeyError, ValueError) as error:
        raise Refusal(f"{what} has no split {split!r}: it has {', '.join(builder.info.splits)}") from error

    def make() -> Any:
        config = tfds.ReadConfig(interleave_cycle_length=_FILES_AT_ONCE, try_autocache=False)
        return builder.as_dataset(split=split, as_supervised=True, shuffle_files=False, read_config=config)

    spec = make().element_spec[0]
    shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
    pixels = shape is not None and shape.rank == 3 and getattr(dtype, "name", None) == "uint8"
    if image_size is not None and not pixels:
        raise Refusal(f"{what} holds no images: leave dataset.args.image_size out")
    if image_size is None and shape is not None and not shape.is_fully_defined():
        raise Refusal(f"{what} has examples of several sizes, {shape}: give dataset.args.image_size")
    return Stream(make, size, Image(image_size) if pixels else None)


class Image:
    """uint8 images become float32 of 0..1."""

    def __init__(self, size: Sequence[int] | None) -> None:
        self._size = size

    def __call__(self, image: Any, label: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        if self._size is None:
            return tf.cast(image, tf.float32) / 255.0, label
        return tf.image.resize(image, list(self._size)) / 255.0, label


def _example_shape(stream: Stream) -> Any:
    records = stream.source()
    return (records if stream.decode is None else records.map(stream.decode)).element_spec[0].shape
