"""The dataset `tfrecord`: files of tf.train.Example records. TensorFlow reads, parses and decodes them.

Owns what the job says of the features, and how many records a file has.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distrain.worker.datasets.examples import Dataset, Files, Stream
from distrain.worker.datasets.found import check_validation, find, kept, needs_path, whole_number, whole_numbers
from distrain.worker.refusal import Refusal

COMPRESSIONS = ("none", "gzip", "zlib")
ENDINGS = (".tfrecord", ".tfrecords", ".tfrec")
DTYPES = ("float32", "int64", "uint8")
IMAGES = ("jpeg", "png")

_HELD = 20_000
_HELD_BYTES = 256 << 20
"""Records of large images are drawn from fewer of them."""


def load(
    path: str | None,
    features: Mapping[str, Mapping[str, Any]],
    label: str,
    weight: str | None = None,
    compression: str = "none",
    classes: int | None = None,
    validation_split: float | None = None,
    validation_path: str | None = None,
) -> Dataset:
    """Examples whose y is the feature `label`, and whose x is the other feature, or a dict of all others by name.

    A feature is `{dtype: float32|int64, shape}`, or `{dtype: uint8, shape}` for raw bytes, or `{image: jpeg|png,
    shape}` or `{image, resize: [height, width]}`, which becomes float32 of 0..1. `weight` names the feature of what
    each example counts. `validation_split`: the part of the files that is kept for validation.

    Raises:
        Refusal: no such files, an unreadable one, features that are not as described, or no examples.
    """
    path = needs_path("tfrecord", path, "the file, the folder or the pattern of the .tfrecord files to read")
    check_validation("tfrecord", validation_split, validation_path)
    if compression not in COMPRESSIONS:
        raise Refusal(f"dataset tfrecord: args.compression is {compression!r}: it is {', '.join(COMPRESSIONS)}")
    if classes is not None and not whole_number(classes):
        raise Refusal(f"dataset tfrecord: args.classes is {classes!r}: it is the number of classes")
    decode = Parse(_features(features, label, weight), label, weight)
    files = find(path, ENDINGS, "dataset tfrecord")
    others: Sequence[Path] = ()
    if validation_path is not None:
        others = find(validation_path, ENDINGS, "dataset tfrecord")
    elif validation_split is not None:
        mask = kept(len(files), validation_split)
        if mask.all():
            raise Refusal(
                f"validation_split keeps whole files of dataset tfrecord for validation, and {path} is a single one: "
                "write several, or give args.validation_path"
            )
        others = [file for file, out in zip(files, mask, strict=True) if out]
        files = tuple(file for file, out in zip(files, mask, strict=True) if not out)
    train = _stream(files, decode, compression)
    return Dataset(train, _stream(others, decode, compression) if others else None, decode.input_shape, classes)


@dataclass(frozen=True)
class Feature:
    """`dtype` of the values as stored, or the `image` format; `shape` of one example; `resize`: height and width."""

    shape: tuple[int | None, ...]
    dtype: str | None = None
    image: str | None = None
    resize: tuple[int, int] | None = None

    @property
    def final_shape(self) -> tuple[int | None, ...]:
        return (*self.resize, self.shape[2]) if self.resize else self.shape


def _features(features: Any, label: str, weight: str | None) -> dict[str, Feature]:
    if not isinstance(features, Mapping) or not features:
        raise Refusal("dataset tfrecord: args.features is a mapping: {image: {image: jpeg, resize: [64, 64]}, …}")
    found = {str(name): _feature(str(name), spec) for name, spec in features.items()}
    for key, name in (("label", label), ("weight", weight)):
        if name is None:
            continue
        if name not in found:
            raise Refusal(f"dataset tfrecord: args.{key} is {name!r}, which is none of features: {', '.join(found)}")
        if found[name].dtype is None:
            raise Refusal(f"dataset tfrecord: args.{key} is {name!r}, which is an image: it needs a dtype")
    if weight is not None and found[weight].shape:
        raise Refusal(f"dataset tfrecord: the weight {weight!r} has a shape: it is one number for each example")
    if not set(found) - {label, weight}:
        raise Refusal("dataset tfrecord: args.features has nothing but the label to feed the model")
    return found


def _feature(name: str, spec: Any) -> Feature:
    what = f"dataset tfrecord: args.features.{name}"
    if not isinstance(spec, Mapping) or ("dtype" in spec) == ("image" in spec):
        raise Refusal(f"{what} is {spec!r}: write {{dtype: float32, shape: […]}} or {{image: jpeg, resize: [h, w]}}")
    known = ("dtype", "shape") if "dtype" in spec else ("image", "shape", "resize")
    if strange := [key for key in spec if key not in known]:
        raise Refusal(f"{what} has {strange[0]!r}: beside {known[0]} there may be {' and '.join(known[1:])}")
    shape = spec.get("shape")
    if shape is not None and not whole_numbers(shape):
        raise Refusal(f"{what}.shape is {shape!r}: it is a list of whole numbers")
    if "dtype" in spec:
        if spec["dtype"] not in DTYPES:
            raise Refusal(f"{what}.dtype is {spec['dtype']!r}: it is {', '.join(DTYPES)} (for raw bytes)")
        return Feature(tuple(shape or ()), dtype=spec["dtype"])
    if spec["image"] not in IMAGES:
        raise Refusal(f"{what}.image is {spec['image']!r}: it is {' or '.join(IMAGES)}")
    resize = spec.get("resize")
    if resize is not None and not whole_numbers(resize, 2):
        raise Refusal(f"{what}.resize is {resize!r}: it is [height, width]")
    if shape is None and resize is None:
        raise Refusal(f"{what} needs a size: give shape [height, width, channels] as stored, or resize [height, width]")
    if shape is not None and (len(shape) != 3 or shape[2] not in (1, 3)):
        raise Refusal(f"{what}.shape is {shape!r}: an image's is [height, width, channels], with 1 or 3 channels")
    return Feature(tuple(shape or (None, None, 3)), image=spec["image"], resize=tuple(resize) if resize else None)


class Parse:
    """From one serialized tf.train.Example to `(x, y)` or `(x, y, w)`."""

    def __init__(self, features: Mapping[str, Feature], label: str, weight: str | None) -> None:
        self._features = features
        self._label = label
        self._weight = weight
        self._inputs = [name for name in features if name not in (label, weight)]

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:
        return self._features[self._inputs[0]].final_shape if len(self._inputs) == 1 else None

    def __call__(self, record: Any) -> tuple[Any, ...]:
        import tensorflow as tf

        stored = {
            name: tf.io.FixedLenFeature([], tf.string)
            if feature.dtype in (None, "uint8")
            else tf.io.FixedLenFeature(feature.shape, feature.dtype)
            for name, feature in self._features.items()
        }
        parsed = tf.io.parse_single_example(record, stored)
        values = {name: _decoded(self._features[name], value) for name, value in parsed.items()}
        x = {name: values[name] for name in self._inputs}
        example = (x if len(x) > 1 else values[self._inputs[0]], values[self._label])
        return example if self._weight is None else (*example, tf.cast(values[self._weight], tf.float32))


def _decoded(feature: Feature, value: Any) -> Any:
    import tensorflow as tf

    if feature.dtype == "uint8":
        return tf.reshape(tf.io.decode_raw(value, tf.uint8), feature.shape)
    if feature.image is None:
        return value
    decode = tf.io.decode_jpeg if feature.image == "jpeg" else tf.io.decode_png
    image = decode(value, channels=feature.shape[2])
    if feature.resize is None:
        # What has another size fails here, and is told with the name of its file.
        return tf.cast(tf.reshape(image, feature.shape), tf.float32) / 255.0
    return tf.ensure_shape(tf.image.resize(image, feature.resize) / 255.0, feature.final_shape)


def _stream(files: Sequence[Path], decode: Parse, compression: str) -> Stream:
    counts = [_count(file, compression) for file in files]
    # An empty file has nothing to share out.
    paths = np.array([os.fsencode(file) for file, count in zip(files, counts, strict=True) if count])
    size, size_bytes = sum(counts), sum(file.stat().st_size for file in files)
    if size == 0:
        raise Refusal(f"dataset tfrecord: there is no record in {', '.join(map(str, files[:3]))}")
    held = min(_HELD, max(256, _HELD_BYTES * size // size_bytes))
    return Stream(Files(paths, read=Read(compression)), size, decode, held)


class Read:
    """The records of one file."""

    def __init__(self, compression: str) -> None:
        self._compression = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}[compression]

    def __call__(self, path: Any) -> Any:
        import tensorflow as tf

        return tf.data.TFRecordDataset(path, self._compression, buffer_size=1 << 20)


def _count(file: Path, compression: str) -> int:
    """How many records `file` has. Those of a file that is not compressed are hopped over, by their lengths."""
    try:
        if compression != "none":
            return _count_all(file, compression)
        with file.open("rb") as opened:
            if opened.seek(0, 2) == 0:
                return 0
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _hops(file, content)
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror or error}") from error


def _hops(file: Path, content: mmap.mmap) -> int:
    # A record is its length (8 bytes), a checksum of that (4), the data, and a checksum of those (4).
    place, count, size = 0, 0, len(content)
    while place < size:
        end = place + 16 + (struct.unpack_from("<Q", content, place)[0] if size - place >= 16 else 0)
        if end > size:
            if count == 0:
                packed = content[:2] == b"\x1f\x8b" or content[:1] == b"\x78"
                hint = ": it looks compressed, set dataset.args.compression" if packed else ""
                raise Refusal(f"{file} is no file of TFRecords, or it is truncated in the first one{hint}")
            raise Refusal(f"{file} is truncated: its record {count + 1}, at byte {place}, is not whole")
        place, count = end, count + 1
    return count


def _count_all(file: Path, compression: str) -> int:
    import tensorflow as tf

    records = Read(compression)(str(file))
    try:
        return int(records.reduce(np.int64(0), lambda count, _: count + 1))
    except tf.errors.OpError as error:
        reason = error.message.partition("[Op:")[0].strip()
        raise Refusal(f"{file} is no {compression} file of TFRecords, or it is damaged: {reason}") from error
