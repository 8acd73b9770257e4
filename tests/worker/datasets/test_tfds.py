"""The `tfds:` datasets, at the boundary: a module that stands in for tensorflow_datasets. Nothing is downloaded."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import load_dataset
from distrain.worker.datasets.examples import Dataset
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events


def load(name: str, path: str | None = None, **args: Any) -> Dataset:
    return load_dataset({"name": name, "path": path, "args": args}, Events(None))


class Builder:
    def __init__(self, folder: Path, shape: tuple[int | None, ...], splits: tuple[str, ...]) -> None:
        self.data_path = folder / "toy" / "1.0.0"
        self.prepared = 0
        self.configs: list[Any] = []
        self._shape = shape
        self.info = types.SimpleNamespace(
            splits={split: types.SimpleNamespace(num_examples=6) for split in splits},
            supervised_keys=("image", "label"),
            features={"label": types.SimpleNamespace(num_classes=3)},
        )

    def download_and_prepare(self) -> None:
        self.prepared += 1
        self.data_path.mkdir(parents=True)

    def as_dataset(self, *, split: str, as_supervised: bool, shuffle_files: bool, read_config: Any) -> Any:
        import tensorflow as tf

        assert as_supervised
        assert not shuffle_files
        self.configs.append(read_config)
        sizes = [size or 5 for size in self._shape]

        examples = [(np.full(sizes, 255, np.uint8), label) for label in (0, 1, 2, 0, 1, 2)]
        signature = tf.TensorSpec(self._shape, tf.uint8), tf.TensorSpec([], tf.int64)
        return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a module in the place of tensorflow_datasets, which knows one dataset, `toy`."""

    class DatasetNotFoundError(ValueError):
        pass

    def put(shape: tuple[int | None, ...] = (4, 4, 3), splits: tuple[str, ...] = ("train", "test")) -> Builder:
        builder = Builder(tmp_path, shape, splits)

        def find(name: str, data_dir: str | None = None) -> Builder:
            if name != "toy":
                raise DatasetNotFoundError(f"Dataset {name} not found.\nmore")
            return builder

        module = types.ModuleType("tensorflow_datasets")
        module.core = types.SimpleNamespace(DatasetNotFoundError=DatasetNotFoundError)
        module.builder = find
        module.ReadConfig = dict
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
        return builder

    return put


def test_where_it_is_not_installed_it_is_said_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(Refusal, match="tfds:mnist needs a package that is not installed: pip install tensorflow-data"):
        load("tfds:mnist")


def test_nothing_is_downloaded_unasked(fake: Any) -> None:
    builder = fake()
    with pytest.raises(Refusal, match=r"tfds:toy is not in .*: prepare it there on each host with `tfds build toy`"):
        load("tfds:toy")
    assert builder.prepared == 0
    with pytest.raises(Refusal, match="tfds:boy: tensorflow_datasets has none of that name: Dataset boy not found"):
        load("tfds:boy")
    with pytest.raises(Refusal, match="has no argument 'splt'; it takes split"):
        load("tfds:toy", splt="train")


@pytest.mark.tensorflow
def test_images_become_floats_and_the_facts_come_from_its_description(fake: Any) -> None:
    builder = fake()
    data = load("tfds:toy", download=True)
    assert builder.prepared == 1
    assert (data.input_shape, data.classes, data.train.size, data.validation.size) == ((4, 4, 3), 3, 6, 6)
    image, label = next(iter(data.train.source().map(data.train.decode)))
    assert (image.dtype.name, float(image[0, 0, 0]), int(label)) == ("float32", 1.0, 0)
    assert builder.configs[-1] == {"interleave_cycle_length": 16, "try_autocache": False}
    assert load("tfds:toy").train.size == 6, "prepared already"
    with pytest.raises(Refusal, match=r"has no split 'validation': it has train, test"):
        load("tfds:toy", validation="validation")


@pytest.mark.tensorflow
def test_images_of_several_sizes_need_one(fake: Any) -> None:
    fake((None, None, 3), ("train",)).download_and_prepare()
    with pytest.raises(Refusal, match="has examples of several sizes"):
        load("tfds:toy")
    data = load("tfds:toy", image_size=[2, 7])
    assert (data.input_shape, data.validation) == ((2, 7, 3), None)
