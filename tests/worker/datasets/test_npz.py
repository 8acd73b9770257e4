"""The npz dataset: what is read, and the sentence for what is not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import load_dataset
from distrain.worker.datasets.examples import Dataset
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events


def load(path: Path | None) -> Dataset:
    spec = {"name": "npz", "path": None if path is None else str(path), "batch_size": 8, "args": {}}
    return load_dataset(spec, Events(None))


X = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def npz(tmp_path: Path, **arrays: Any) -> Path:
    file = tmp_path / "data.npz"
    np.savez(file, **arrays)
    return file


def test_npz_pixels_are_scaled_and_get_a_channel_and_classes_come_from_all_labels(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x_train=X, y_train=Y, x_test=X[:2], y_test=[0, 3], unrelated=[1]))
    assert (data.input_shape, data.classes, data.train.size, data.validation.size) == ((4, 4, 1), 4, 6, 2)
    assert data.train.prepare.largest == 255


def test_npz_floats_are_left_alone_and_labels_need_not_be_classes(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x_train=X / 7, y_train=Y / 2, x_val=X[:1] / 7, y_val=Y[:1] / 2))
    assert (data.input_shape, data.classes, data.train.prepare) == ((4, 4), None, None)
    assert data.train.x.dtype == np.float32
    np.testing.assert_allclose(data.train.x, X / 7, rtol=1e-6)
    assert data.validation.size == 1


def test_npz_weights_of_examples_are_read(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x_train=X, y_train=Y, w_train=Y * 2, x_val=X[:2], y_val=Y[:2], w_val=[0.5, 1]))
    assert (data.train.w.tolist(), data.validation.w.tolist()) == ([0, 2, 4, 0, 2, 4], [0.5, 1])


def test_npz_one_hot_labels_tell_the_classes(tmp_path: Path) -> None:
    assert load(npz(tmp_path, x_train=X, y_train=np.eye(3)[Y])).classes == 3
    assert load(npz(tmp_path, x_train=X, y_train=np.full((6, 3), 0.5))).classes is None
    assert load(npz(tmp_path, x_train=X, y_train=Y - 1)).classes is None


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x_train": X}, "has x_train: y_train is missing"),
        ({"x": X, "y": Y}, "has no arrays: x_train is missing"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "x_test and y_test come together"),
        ({"x_train": X, "y_train": Y, "w_val": Y}, "w_val are the weights of x_val, which is missing"),
        ({"x_train": X, "y_train": Y, "w_train": Y[:5]}, r"train weights are int64\[5\]: one number for each of the 6"),
        ({"x_train": X, "y_train": Y[:5]}, r"train examples do not match: uint8\[6, 4, 4\] in x but int64\[5\] in y"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "train has no examples"),
        ({"x_train": X, "y_train": np.array([None] * 6)}, "holds Python objects"),
        ({"x_train": X, "y_train": np.array(["a"] * 6)}, "train y holds <U1 values: numbers are needed"),
        ({"x_train": X, "y_train": np.array(3)}, "train y is a single value"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y}, "training and validation differ in shape"),
        ({"x_train": X, "y_train": Y, "x_test": X / 2, "y_test": Y}, "training and validation differ in shape"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence) as refusal:
        load(npz(tmp_path, **arrays))
    assert str(tmp_path / "data.npz") in str(refusal.value)


def test_what_is_no_npz_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match=r"needs dataset\.path"):
        load(None)
    with pytest.raises(Refusal, match=r"absent\.npz does not exist: give an absolute path that every host has"):
        load(str(tmp_path / "absent.npz"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        Refusal, match=f"absent.npz does not exist in {tmp_path}: give an absolute path that every host"
    ):
        load("absent.npz")
    with pytest.raises(Refusal, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(Refusal, match="is empty"):
        load(tmp_path / "empty")
    (tmp_path / "text").write_text("x_train")
    with pytest.raises(Refusal, match=r"is not an \.npz file"):
        load(tmp_path / "text")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_gives_a_dataset_or_a_refusal_and_nothing_else(tmp_path: Path, save: Any) -> None:
    file = tmp_path / "data.npz"
    save(file, x_train=X, y_train=Y)
    whole = file.read_bytes()
    dice = random.Random(9)
    refusals = []
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.2:
            del data[dice.randrange(len(data)) :]
        file.write_bytes(data)
        try:
            load(file)
        except Refusal as refusal:
            refusals.append(str(refusal))
    assert len(refusals) > 100
    assert all(str(file) in refusal for refusal in refusals)
