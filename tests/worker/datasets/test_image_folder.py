"""The image_folder dataset: which images there are, what becomes of them, and the sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import faults, load_dataset
from distrain.worker.datasets.examples import Dataset
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events


def load(path: Path | None, **args: Any) -> Dataset:
    spec = {"name": "image_folder", "path": None if path is None else str(path), "args": {"image_size": [6, 5], **args}}
    return load_dataset(spec, Events(None))


def folder(path: Path, **images: list[str]) -> Path:
    """Files that are no images, which only reading them tells."""
    for name, files in images.items():
        (path / name).mkdir(parents=True)
        for file in files:
            (path / name / file).write_bytes(b"no image")
    return path


def told(stream: Any) -> list[tuple[str, int]]:
    paths, (labels,) = stream.source.paths, stream.source.columns
    return [(Path(path.decode()).name, int(label)) for path, label in zip(paths, labels, strict=True)]


def test_classes_are_the_sorted_names_of_the_folders(tmp_path: Path) -> None:
    folder(tmp_path, dog=["b.PNG", "a.jpg", "notes.txt", ".hidden.png"], cat=["c.gif"], **{".cache": ["x.png"]})
    (tmp_path / "README").touch()
    data = load(tmp_path)
    assert told(data.train) == [("c.gif", 0), ("a.jpg", 1), ("b.PNG", 1)]
    assert (data.train.size, data.input_shape, data.classes, data.validation) == (3, (6, 5, 3), 2, None)
    assert load(tmp_path, channels=1).input_shape == (6, 5, 1)


def test_examples_for_validation_come_from_a_split_of_each_class_or_folders_of_their_own(tmp_path: Path) -> None:
    names = [f"{number:03}.png" for number in range(50)]
    folder(tmp_path / "one", a=names, b=names[:10])
    data, again = (load(tmp_path / "one", validation_split=0.2) for _ in range(2))
    labels = [label for _, label in told(data.validation)]
    assert (labels.count(0), labels.count(1), data.train.size) == (10, 2, 48)
    assert sorted(told(data.train) + told(data.validation)) == sorted(told(load(tmp_path / "one").train))
    assert told(again.validation) == told(data.validation)
    folder(tmp_path / "two" / "train", a=["1.png"], b=["2.png"])
    folder(tmp_path / "two" / "validation", b=["3.png"])
    data = load(tmp_path / "two")
    assert (told(data.train), told(data.validation)) == ([("1.png", 0), ("2.png", 1)], [("3.png", 1)])
    data = load(tmp_path / "one", validation_path=str(tmp_path / "two" / "validation"))
    assert told(data.validation) == [("3.png", 1)]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    ok = folder(tmp_path / "ok", a=["1.png"], b=["1.png", "2.png"])
    for path, args, sentence in [
        (None, {}, r"image_folder needs dataset\.path: the folder that has a folder of images for each class"),
        (tmp_path / "no", {}, r"/no does not exist: give an absolute path that every host has"),
        (ok / "a" / "1.png", {}, "cannot be read: Not a directory"),
        (ok / "a", {}, "/a has no folders: it needs one for each class"),
        (
            folder(tmp_path / "none", a=["1.png"], b=["1.txt"]),
            {},
            r"/b has no images: a class's folder holds",
        ),
        (ok, {"image_size": 5}, r"args.image_size is 5: write \[height, width\]"),
        (ok, {"image_size": [5, 0]}, "args.image_size is"),
        (ok, {"channels": 2}, "args.channels is 2: it is 1 or 3"),
        (ok, {"validation_split": 0.5}, "/a has too few images for validation_split 0.5: it has one"),
        (ok, {"validation_path": str(tmp_path / "none")}, "/b has no images"),
        (ok, {"validation_path": str(folder(tmp_path / "more", z=["1.png"]))}, "has the class z, which .*/ok has not"),
        (
            folder(tmp_path / "s", train=["1.png"], validation=["1.png"]),
            {"validation_split": 0.5},
            "leave args.va",
        ),
    ]:
        with pytest.raises(Refusal, match=sentence):
            load(path, **args)
    (ok / "b" / "2.png").write_bytes(b"")
    with pytest.raises(Refusal, match=r"/b/2\.png is empty: remove it"):
        load(ok)


@pytest.mark.tensorflow
def test_images_of_every_format_are_decoded_and_resized(tmp_path: Path) -> None:
    import tensorflow as tf

    pixels = np.zeros((12, 10, 3), np.uint8)
    pixels[:, :, 0] = 255
    folder(tmp_path, red=[])
    (tmp_path / "red" / "a.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (tmp_path / "red" / "b.jpeg").write_bytes(tf.io.encode_jpeg(pixels, quality=100, chroma_downsampling=False).numpy())
    (tmp_path / "red" / "c.bmp").write_bytes(bitmap(pixels))
    (tmp_path / "red" / "d.gif").write_bytes(GIF)
    data = load(tmp_path)
    source = data.train.source
    for path, label in zip(source.paths, *source.columns, strict=True):
        image, found = data.train.decode(path, label)
        assert (image.shape, image.dtype, int(found)) == ((6, 5, 3), tf.float32, 0)
        np.testing.assert_allclose(image.numpy(), np.broadcast_to([1.0, 0, 0], (6, 5, 3)), atol=0.02, err_msg=path)
    gray, _ = load(tmp_path, channels=1).train.decode(source.paths[0], 0)
    assert gray.shape == (6, 5, 1)


@pytest.mark.tensorflow
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    folder(tmp_path, red=[])
    image = tf.io.encode_jpeg(np.zeros((12, 10, 3), np.uint8)).numpy()
    for name in ("a.jpeg", "b.jpeg", "c.jpeg"):
        (tmp_path / "red" / name).write_bytes(image)
    data = load(tmp_path)
    (tmp_path / "red" / "b.jpeg").write_bytes(image[:50])
    with pytest.raises(Refusal, match=r"/red/b\.jpeg is damaged, or not"), faults.named(data, Events(None)):
        read(data)
    with pytest.raises(tf.errors.InvalidArgumentError), faults.named(data, Events(None)):
        raise tf.errors.InvalidArgumentError(None, None, "something of the model's, while a file is damaged")
    (tmp_path / "red" / "b.jpeg").unlink()
    with pytest.raises(Refusal, match=r"/red/b\.jpeg is damaged.*No such file"), faults.named(data, Events(None)):
        read(data)


def read(data: Dataset) -> None:
    from distrain.worker.input.pipeline import Pipeline

    assert list(Pipeline(False, None).examples(data.train))


def bitmap(pixels: np.ndarray) -> bytes:
    """A BMP file: rows from below, blue first, each filled up to a multiple of four bytes."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, -(-width * 3 // 4) * 4), np.uint8)
    rows[:, : width * 3] = pixels[::-1, :, ::-1].reshape(height, width * 3)
    size = 54 + rows.size
    numbers = [(size, 4), (0, 4), (54, 4), (40, 4), (width, 4), (height, 4), (1, 2), (24, 2), (0, 4), (rows.size, 4)]
    header = b"BM" + b"".join(value.to_bytes(count, "little") for value, count in numbers) + bytes(16)
    return header + rows.tobytes()


GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""One red pixel."""
