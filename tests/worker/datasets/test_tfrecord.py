"""The tfrecord dataset: what becomes of its features, and the sentence for what is wrong in the job or in a file."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import faults, load_dataset
from distrain.worker.datasets.examples import Dataset
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

NUMBERS = {"x": {"dtype": "float32", "shape": [2]}, "y": {"dtype": "int64"}}


def load(path: Path | None, features: Any = NUMBERS, label: str = "y", **args: Any) -> Dataset:
    args = {"features": features, "label": label, **args}
    return load_dataset({"name": "tfrecord", "path": None if path is None else str(path), "args": args}, Events(None))


def framed(*records: bytes) -> bytes:
    """Records in their frames, whose checksums are wrong: they matter to whoever reads what is in the frames."""
    return b"".join(struct.pack("<QI", len(record), 0) + record + bytes(4) for record in records)


def test_files_are_counted_and_shared_out_by_their_names(tmp_path: Path) -> None:
    for name, count in (("b.tfrecord-00001", 3), ("b.tfrecord-00000", 2), ("a.tfrecords", 1), ("c.tfrec", 0), ("d", 9)):
        (tmp_path / name).write_bytes(framed(*[b"12345"] * count))
    data = load(tmp_path)
    assert [Path(path.decode()).name for path in data.train.source.paths] == [
        "a.tfrecords",
        "b.tfrecord-00000",
        "b.tfrecord-00001",
    ]
    assert (data.train.size, data.validation, data.input_shape, data.classes) == (6, None, (2,), None)
    assert load(tmp_path / "d", classes=4).classes == 4
    assert load(tmp_path / "b.*", validation_path=str(tmp_path / "d")).validation.size == 9
    data = load(tmp_path / "[abd]*", validation_split=0.25)
    assert (len(data.train.source.paths), len(data.validation.source.paths)) == (3, 1)
    assert data.train.size + data.validation.size == 15


def test_of_large_records_fewer_are_held_to_draw_from(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        for _ in range(1000):
            opened.write(struct.pack("<QI", 1 << 19, 0))
            opened.seek((1 << 19) + 4, 1)
        opened.truncate()
    assert (load(file).train.size, load(file).train.held) == (1000, 511)
    file.write_bytes(framed(b"small"))
    assert load(file).train.held == 20_000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (framed(b"12345", b"12345")[:-1], "is truncated: its record 2, at byte 21, is not whole"),
        (framed(b"12345") + b"1234", "is truncated: its record 2, at byte 21, is not whole"),
        (framed(b"12345")[:-1], "is no file of TFRecords, or it is truncated in the first one$"),
        (b"\x00" * 5, "is no file of TFRecords, or it is truncated in the first one$"),
        (gzip.compress(framed(b"12345"), mtime=0), r"first one: it looks compressed, set dataset\.args\.compression"),
        (zlib.compress(framed(b"12345")), r"first one: it looks compressed, set dataset\.args\.compression"),
        (b"", "there is no record in"),
    ],
)
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "some.tfrecord"
    file.write_bytes(content)
    with pytest.raises(Refusal, match=sentence) as refusal:
        load(file)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"features": {}}, r"args\.features is a mapping"),
        (
            {"features": {"x": {"dtype": "float16"}, "y": {"dtype": "int64"}}},
            r"features\.x\.dtype is 'float16': it is",
        ),
        ({"features": {"x": {}, "y": {"dtype": "int64"}}}, r"features\.x is {}: write {dtype: float32, shape: \[…\]}"),
        ({"features": {"x": {"dtype": "int64", "image": "png"}}}, r"features\.x is .*: write"),
        ({"features": {"x": {"dtype": "int64", "resize": [2, 2]}}}, "has 'resize': beside dtype there may be shape"),
        (
            {"features": {"x": {"dtype": "int64", "shape": [0]}}},
            r"features\.x\.shape is \[0\]: it is a list of whole",
        ),
        ({"features": {"x": {"image": "webp"}}}, r"features\.x\.image is 'webp': it is jpeg or png"),
        ({"features": {"x": {"image": "png"}}}, "needs a size: give shape"),
        ({"features": {"x": {"image": "png", "resize": [2]}}}, r"resize is \[2\]: it is \[height, width\]"),
        ({"features": {"x": {"image": "png", "shape": [2, 2]}}}, r"shape is \[2, 2\]: an image's is"),
        ({"features": {"y": {"dtype": "int64"}}}, "has nothing but the label to feed the model"),
        ({"label": "z"}, r"args\.label is 'z', which is none of features: x, y"),
        (
            {"features": {"y": {"image": "png", "resize": [2, 2]}, "x": {"dtype": "int64"}}},
            "which is an image",
        ),
        ({"weight": "x"}, "the weight 'x' has a shape: it is one number"),
        ({"compression": "zip"}, r"compression is 'zip': it is none, gzip, zlib"),
        ({"classes": 0}, r"args\.classes is 0: it is the number of classes"),
        ({"validation_split": 0.5}, "keeps whole files of dataset tfrecord for validation, and .* is a single one"),
        ({"validation_split": 2}, "validation_split is 2: it is a number between 0 and 1"),
        ({"validation_split": 0.5, "validation_path": "x"}, "has both validation_split and validation_path"),
        ({"feature": {}}, "has no argument 'feature'; it takes features"),
    ],
)
def test_what_is_wrong_in_the_job_is_said(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    (tmp_path / "some.tfrecord").write_bytes(framed(b"12345"))
    with pytest.raises(Refusal, match=sentence):
        load(tmp_path, **changed)


def test_there_must_be_files() -> None:
    with pytest.raises(Refusal, match=r"dataset tfrecord needs dataset\.path"):
        load(None)


# ---- what TensorFlow reads


def example(**features: Any) -> bytes:
    import tensorflow as tf

    kinds = {
        bytes: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
        int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
        float: lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
    }
    made = {name: kinds[type(values[0])](values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write(path: Path, records: Sequence[bytes], compression: str = "") -> Path:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), compression) as file:
        for record in records:
            file.write(record)
    return path


def examples(data: Dataset) -> list[Any]:
    from distrain.worker.input.pipeline import Pipeline

    return list(Pipeline(False, None).examples(data.train).as_numpy_iterator())


@pytest.mark.tensorflow
@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_features_become_inputs_label_and_weight(tmp_path: Path, compression: str) -> None:
    import tensorflow as tf

    pixels = np.full((4, 6, 3), 51, np.uint8)
    gray = tf.io.encode_png(pixels[:, :, :1]).numpy()
    record = example(
        a=[1.0, 2.0],
        raw=[pixels[:, :, 0].tobytes()],
        png=[gray],
        jpeg=[tf.io.encode_jpeg(pixels).numpy()],
        y=[3],
        w=[0.5],
    )
    packed = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}[compression]
    file = write(tmp_path / "some.tfrecord", [record] * 3, packed)
    features = {
        "a": {"dtype": "float32", "shape": [2]},
        "raw": {"dtype": "uint8", "shape": [4, 6]},
        "png": {"image": "png", "shape": [4, 6, 1]},
        "jpeg": {"image": "jpeg", "resize": [2, 3]},
        "y": {"dtype": "int64"},
        "w": {"dtype": "float32"},
    }
    data = load(file, features, weight="w", compression=compression)
    assert (data.train.size, data.input_shape) == (3, None)
    x, y, w = examples(data)[2]
    assert {name: (value.shape, value.dtype.name) for name, value in x.items()} == {
        "a": ((2,), "float32"),
        "raw": ((4, 6), "uint8"),
        "png": ((4, 6, 1), "float32"),
        "jpeg": ((2, 3, 3), "float32"),
    }
    assert (x["a"].tolist(), x["raw"][0, 0], y, w) == ([1, 2], 51, 3, 0.5)
    np.testing.assert_allclose(x["png"], 0.2, atol=1e-6)
    np.testing.assert_allclose(x["jpeg"], 0.2, atol=0.02)
    one = load(file, {"png": features["png"], "y": features["y"]}, compression=compression)
    assert (one.input_shape, len(examples(one)[0])) == ((4, 6, 1), 2)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("bad", "features", "sentence"),
    [
        ({"y": [1]}, NUMBERS, "Feature: x .*is required but could not be found"),
        ({"x": [1.0, 2.0], "y": [1.0]}, NUMBERS, "Data types don't match"),
        ({"x": [1.0], "y": [1]}, NUMBERS, "Key: x"),
        ({"x": [b"no image"], "y": [1]}, {"x": {"image": "png", "resize": [2, 2]}, "y": {"dtype": "int64"}}, ""),
    ],
)
def test_a_record_that_is_not_as_described_is_named(
    tmp_path: Path, bad: dict[str, Any], features: dict[str, Any], sentence: str
) -> None:
    import tensorflow as tf

    good = {"x": [1.0, 2.0], "y": [1]}
    if "image" in features["x"]:
        good["x"] = [tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()]
    write(tmp_path / "a.tfrecord", [example(**good)] * 4)
    write(tmp_path / "b.tfrecord", [example(**good), example(**bad), example(**good)])
    data = load(tmp_path, features)
    wanted = rf"/b\.tfrecord, record 2 is damaged, or not what the job says: .*{sentence}"
    with pytest.raises(Refusal, match=wanted), faults.named(data, Events(None)):
        examples(data)


@pytest.mark.tensorflow
def test_a_record_with_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    record = example(x=[1.0, 2.0], y=[1])
    file = write(tmp_path / "a.tfrecord", [record] * 3)
    content = bytearray(file.read_bytes())
    content[2 * (len(record) + 16) + 12 + 3] ^= 1
    file.write_bytes(content)
    data = load(file)
    with pytest.raises(Refusal, match=r"/a\.tfrecord, record 3 is damaged"), faults.named(data, Events(None)):
        examples(data)


@pytest.mark.tensorflow
def test_a_truncated_compressed_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tfrecord", [example(x=[float(n), 2.0], y=[1]) for n in range(500)], "GZIP")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(Refusal, match=r"/a\.tfrecord is no gzip file of TFRecords, or it is damaged"):
        load(file, compression="gzip")
