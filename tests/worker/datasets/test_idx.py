"""The IDX reader: what it reads, and that whatever else the bytes are, a sentence comes out."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from distrain.worker.datasets import idx
from distrain.worker.refusal import Refusal


def idx_bytes(array: np.ndarray, type_code: int = 8) -> bytes:
    return bytes([0, 0, type_code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS)))
    return tmp_path


def test_reads_plain_and_gzip_files_side_by_side(folder: Path) -> None:
    files = idx.read_folder(folder, classes=10)
    for images in (files.train_images, files.test_images):
        np.testing.assert_array_equal(images, IMAGES)
    for labels in (files.train_labels, files.test_labels):
        np.testing.assert_array_equal(labels, LABELS)


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", b"", "is empty"),
        ("train-images-idx3-ubyte", b"\0\0", "is no IDX file: it begins with 00 00"),
        ("train-images-idx3-ubyte", b"<html>not found</html>", "is no IDX file: it begins with 3c 68 74 6d"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:9], "ends inside its header"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:-1], "cut short: 59 of the 60 bytes"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES) + b"\0", "goes on after the 60 bytes"),
        ("train-images-idx3-ubyte", idx_bytes(LABELS), r"holds labels \(1 axis\) where images \(3 axes\)"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES[None]), "holds 4 axes where images"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES, 0x0D), "IDX type 0x0d"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES[:0]), "is empty: its header tells of 0x4x3"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES[:4]), "has 4 images but train-labels-idx1-ubyte.gz .* 5 labels"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES[:, :2]), "are 2x3 but those in t10k-images-idx3-ubyte are 4x3"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "cut short: 0 of the"),
        ("train-images-idx3-ubyte", gzipped(idx_bytes(IMAGES)), "is gzip data: give its name the ending .gz"),
        ("train-labels-idx1-ubyte.gz", idx_bytes(LABELS), "is not gzip data"),
        ("train-labels-idx1-ubyte.gz", b"", "is empty"),
        ("train-labels-idx1-ubyte.gz", gzipped(b""), "is empty"),
        ("train-labels-idx1-ubyte.gz", gzipped(idx_bytes(LABELS))[:-6], "damaged or cut short"),
        ("train-labels-idx1-ubyte.gz", gzipped(idx_bytes(LABELS)) + b"rest", "is damaged"),
        ("train-labels-idx1-ubyte.gz", gzipped(idx_bytes(IMAGES)), r"holds images \(3 axes\) where labels"),
        (
            "train-labels-idx1-ubyte.gz",
            gzipped(idx_bytes(LABELS + 6)),
            "gives example 2 the label 10: labels are 0 to 9",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder: Path, name: str, content: bytes, sentence: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(Refusal, match=sentence) as refusal:
        idx.read_folder(folder, classes=10)
    assert str(folder / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("stem", idx.FILE_STEMS)
def test_a_missing_file_is_named(folder: Path, stem: str) -> None:
    next(folder.glob(f"{stem}*")).unlink()
    with pytest.raises(Refusal, match=f"has no {stem} "):
        idx.read_folder(folder, classes=10)


def test_a_file_or_nothing_in_place_of_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refusal, match="file is a file: give the folder"):
        idx.read_folder(tmp_path / "file", classes=10)
    with pytest.raises(Refusal, match="absent does not exist"):
        idx.read_folder(tmp_path / "absent", classes=10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal) as refusal:
        idx.read_folder(Path("data/absent"), classes=10)
    assert str(refusal.value) == (
        f"data/absent does not exist in {tmp_path}: give the folder that holds train-images-idx3-ubyte.gz and its "
        "three fellows, as an absolute path that every host has, or leave dataset.path out and set DISTRAIN_DATA there"
    )
    with pytest.raises(Refusal, match="cannot be read: File name too long"):
        idx.read_folder(tmp_path / ("x" * 300), classes=10)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(Refusal, match="train-images-idx3-ubyte cannot be read: Is a directory"):
        idx.read_folder(folder, classes=10)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_bytes_give_an_array_or_a_refusal_and_nothing_else(tmp_path: Path, ending: str) -> None:
    whole = idx_bytes(IMAGES) if not ending else gzipped(idx_bytes(IMAGES))
    file = tmp_path / f"images{ending}"
    dice = random.Random(8)
    refusals = []
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(dice.randint(0, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.5:
            del data[dice.randrange(len(data)) :]
        elif dice.random() < 0.2:
            data += dice.randbytes(dice.randint(1, 20))
        file.write_bytes(data)
        try:
            array = idx.read(file, axes=3)
        except Refusal as refusal:
            refusals.append(str(refusal))
        else:
            assert (array.ndim, array.dtype) == (3, np.uint8)
    assert 1000 < len(refusals) < 3000
    assert all(str(file) in refusal for refusal in refusals)
