"""Models by name, and the parts of datasets that need TensorFlow: streams and in-graph preparation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import load_dataset
from distrain.worker.datasets.examples import Dataset, InMemory, Pixels
from distrain.worker.model.models import build_model
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

pytestmark = pytest.mark.tensorflow


def dataset(shape: tuple[int | None, ...] | None, classes: int | None = 10) -> Dataset:
    """The facts of a dataset alone: all that a model is built from."""
    return Dataset(InMemory(np.zeros((1, 1)), np.zeros(1), 1), None, shape, classes)


def build(name: str, facts: Dataset, **args: Any) -> Any:
    return build_model({"name": name, "args": args}, facts)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("users")
    (folder / "users_models.py").write_text(
        """
import keras
from keras import layers
def dense(input_shape, classes, units=4):
    return keras.Sequential([layers.Input(input_shape), layers.Dense(units), layers.Dense(classes)])
def unbuilt(): return keras.Sequential([layers.Dense(7)])
class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(7)
    def call(self, x): return self.dense(x)
def nothing(): pass
def pair(): return dense((3,), 2), 1
def legacy():
    import tf_keras
    return tf_keras.Sequential([tf_keras.layers.Dense(1)])
def broken(): raise LookupError("the user's own")
"""
    )
    (folder / "users_streams.py").write_text(
        """
import numpy as np
import tensorflow as tf
calls = []
x, y = np.arange(60, dtype=np.float32).reshape(5, 4, 3), np.arange(5)
def slices(): calls.append(1); return tf.data.Dataset.from_tensor_slices((x, y))
def pair(): return slices(), slices().take(2)
def named(): return {"train": slices(), "validation": (x, y), "classes": 5}
def unknown():
    spec = (tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((), tf.int32))
    return tf.data.Dataset.from_generator(lambda: iter([(np.ones((2, 3)), 1)]), output_signature=spec)
def endless(): return slices().repeat()
def tensors(): return tf.zeros((5, 3)), tf.zeros(5, tf.int32)
def batched(): return slices().batch(2)
def whole_batches(): return slices().batch(2, drop_remainder=True).prefetch(1)
def x_only(): return tf.data.Dataset.from_tensor_slices(x)
def weighted(): return tf.data.Dataset.from_tensor_slices((x, y, y))
def empty(): return slices().take(0)
"""
    )
    sys.path.insert(0, str(folder))
    yield "users_models"
    sys.path.remove(str(folder))
    for name in ("users_models", "users_streams"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("shape", "classes", "parameters"),
    [
        ((28, 28, 1), 10, 832 + (12 * 12 * 32 + 1) * 128 + 129 * 10),
        ((8, 8, 1), 10, 832 + (2 * 2 * 32 + 1) * 128 + 129 * 10),
        ((32, 32, 3), 7, 2432 + (14 * 14 * 32 + 1) * 128 + 129 * 7),
        ((6, 7), 2, 832 + (1 * 1 * 32 + 1) * 128 + 129 * 2),
    ],
)
def test_cnn_fits_the_images_and_the_classes(shape: tuple[int, ...], classes: int, parameters: int) -> None:
    model = build("cnn", dataset(shape, classes))
    assert model.count_params() == parameters
    out = model.predict_on_batch(np.ones((2, *shape), np.float32))
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    assert out.shape == (2, classes)


def test_built_in_models_take_arguments() -> None:
    layers = [layer.__class__.__name__ for layer in build("cnn", dataset((8, 8, 1)), dropout=0.25).layers]
    assert layers == ["Rescaling", "Conv2D", "MaxPooling2D", "Flatten", "Dropout", "Dense", "Dropout", "Dense"]
    assert build("cnn", dataset((8, 8, 1), None), classes=3, filters=2, dense=5).output_shape == (None, 3)
    mlp = build("mlp", dataset((4, 3), 2), hidden=[8, 6], dropout=0.5)
    assert mlp.count_params() == 13 * 8 + 9 * 6 + 7 * 2
    assert build("mlp", dataset((), 2), hidden=[]).count_params() == 4


@pytest.mark.parametrize(
    ("shape", "args", "of_places"),
    [
        ((8, 8, 1), {}, (8 + 8) * 64),
        ((28, 28), {}, (28 + 28) * 64),
        ((32, 16, 3), {}, (48 + 32) * 64),
        ((12, 5), {}, (5 + 12) * 64),
        ((12,), {"vocabulary": 100}, 100 * 64 + (64 + 12) * 64),
    ],
)
def test_a_transformer_reads_sequences_images_and_tokens(
    shape: tuple[int, ...], args: dict[str, Any], of_places: int
) -> None:
    of_block = 2 * 2 * 64 + 4 * (64 + 1) * 64 + (64 + 1) * 256 + (256 + 1) * 64
    model = build("transformer", dataset(shape, 7), **args)
    assert model.count_params() == of_places + 2 * of_block + 2 * 64 + 65 * 7
    x = np.random.default_rng(0).integers(0, 100, (3, *shape)).astype(np.float32) / (1 if "vocabulary" in args else 100)
    out = model.predict_on_batch(x)
    assert out.shape == (3, 7)
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    assert not np.allclose(out, model.predict_on_batch(x[:, ::-1]), rtol=1e-4), "the places are all one to it"


def test_a_transformer_takes_arguments() -> None:
    model = build("transformer", dataset((8, 8, 1)), layers=1, heads=2, width=6, dropout=0.1, classes=3)
    of_block = 2 * 2 * 6 + 4 * (6 + 1) * 6 + (6 + 1) * 24 + (24 + 1) * 6
    assert model.count_params() == (8 + 8) * 6 + of_block + 2 * 6 + 7 * 3
    assert [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"] == [0.1]


@pytest.mark.parametrize(
    ("name", "facts", "args", "sentence"),
    [
        ("cnm", dataset((8, 8, 1)), {}, "there is no model 'cnm': there are cnn, mlp, transformer, keras.applications"),
        ("transformer", dataset((8, 8)), {"width": 30}, "width is 30, which 4 heads cannot .* a multiple of 4"),
        ("transformer", dataset((8, 8)), {"layers": 0}, "transformer: layers is 0: give a whole number"),
        ("transformer", dataset((8, 8)), {"dropout": 2}, "transformer: dropout is 2: give a number"),
        ("transformer", dataset((8,)), {}, "an example is 8: give args.vocabulary if these are tokens"),
        ("transformer", dataset((8, 8)), {"vocabulary": 9}, "is for tokens, but an example is 8x8: leave it out"),
        ("cnn", dataset((8, 8, 1)), {"droput": 0.1}, "model cnn has no argument 'droput'; it takes dropout, "),
        ("cnn", dataset((8, 8, 1)), {"dropout": 1.5}, "dropout is 1.5: give a number from 0 to below 1"),
        ("cnn", dataset((8, 8, 1)), {"filters": "many"}, "filters is 'many': give a whole number"),
        ("cnn", dataset((8, 8, 1)), {"classes": 0}, "classes is 0"),
        ("cnn", dataset((8, 8, 1), None), {}, "needs the number of classes"),
        ("cnn", dataset((20,)), {}, "needs images .* but an example is 20"),
        ("cnn", dataset((3, 9, 1)), {}, "at least 6x6, but these are 3x9"),
        ("cnn", dataset((None, 8, 1)), {}, r"one known shape, but x is \?x8x1"),
        ("mlp", dataset(None), {}, "one known shape, but x is not a single array"),
        ("mlp", dataset((3,)), {"hidden": 128}, r"hidden is 128: give a list of layer sizes"),
        ("mlp", dataset((3,)), {"hidden": [128, -1]}, "each of hidden is -1"),
        (
            "keras.applications.MobilenetV2",
            dataset((32, 32, 3)),
            {},
            "there is no keras.applications.MobilenetV2.*MobileNetV2",
        ),
        ("keras.applications.Nonsense", dataset((32, 32, 3)), {}, "there is ConvNeXtBase, "),
        ("keras.applications.MobileNetV2", dataset((28, 28, 1)), {}, "for examples of 28x28x1 .*at least 32x32"),
        ("keras.applications.MobileNetV2", dataset((32, 32, 3)), {"alfa": 1}, "no argument 'alfa'; it takes alpha, "),
        (
            "keras.applications.MobileNetV2",
            dataset((32, 32, 3)),
            {"alpha": "x"},
            "cannot be built .* with args {'alpha': 'x'}",
        ),
        ("keras.applications.MobileNetV2", dataset((20,)), {}, "needs images .* but an example is 20"),
        ("keras.applications.MobileNetV2", dataset((32, 32, 3), None), {}, "needs the number of classes"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, facts: Dataset, args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence) as refusal:
        build(name, facts, **args)
    assert "\n" not in str(refusal.value)


def test_applications_are_built_for_the_dataset() -> None:
    model = build("keras.applications.MobileNetV2", dataset((32, 32, 1), 7), alpha=0.35)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 1), (None, 7))
    model = build("keras.applications.MobileNetV2", dataset((32, 32, 3), 7), alpha=0.35, include_top=False)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 7))


def test_a_function_of_ones_own_builds_the_model(users: str) -> None:
    assert build(f"{users}:dense", dataset((3,), 2), units=5).count_params() == 4 * 5 + 6 * 2
    assert build(f"{users}:dense", dataset((3,), 2), classes=9).output_shape == (None, 9)
    for name in ("unbuilt", "Own"):
        model = build(f"{users}:{name}", dataset((3,)))
        assert model.built
        assert model.count_params() == 28
    assert not build(f"{users}:unbuilt", dataset(None)).built
    for name, args, sentence in [
        ("nothing", {}, "returned None: it must return a keras.Model"),
        ("pair", {}, r"returned \(keras Sequential, int\)"),
        ("dense", {"unit": 3}, "has no argument 'unit'; it takes units, "),
    ]:
        with pytest.raises(Refusal, match=sentence):
            build(f"{users}:{name}", dataset((3,), 2), **args)
    with pytest.raises(LookupError, match="the user's own"):
        build(f"{users}:broken", dataset((3,)))


def test_a_keras_2_model_is_refused(users: str) -> None:
    pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    with pytest.raises(Refusal, match="returned a tf_keras"):
        build(f"{users}:legacy", dataset((3,)))


def test_pixels_are_scaled_in_the_graph() -> None:
    import tensorflow as tf

    x, y = tf.function(Pixels(16))(tf.constant(np.full((2, 8, 8), 4, np.uint8)), tf.constant([1, 2]))
    assert x.shape == (2, 8, 8, 1)
    assert float(x[0, 0, 0, 0]) == 0.25
    assert y.numpy().tolist() == [1, 2]
    x, _ = Pixels(255)(tf.constant(np.full((2, 4, 4, 3), 255, np.uint8)), y)
    assert (x.shape, float(tf.reduce_max(x))) == ((2, 4, 4, 3), 1.0)


def load(name: str) -> Dataset:
    return load_dataset({"name": f"users_streams:{name}", "path": None, "args": {}}, Events(None))


def test_a_function_may_return_streams(users: str) -> None:
    import tensorflow as tf

    data = load("pair")
    assert (data.train.size, data.validation.size, data.input_shape, data.classes) == (5, 2, (4, 3), None)
    for _ in range(2):
        assert [int(y) for _, y in data.train.source()] == [0, 1, 2, 3, 4]
    assert [int(y) for _, y in data.validation.source()] == [0, 1]
    data = load("named")
    assert (data.train.size, data.validation.size, data.classes) == (5, 5, 5)
    data = load("unknown")
    assert (data.train.size, data.input_shape) == (None, (None, 3))
    assert load("endless").train.size is None
    assert [[int(y), int(weight)] for _, y, weight in load("weighted").train.source()] == [[n, n] for n in range(5)]
    data = load("tensors")
    assert (type(data.train.x), data.train.size, data.classes) == (np.ndarray, 5, 1)

    calls = sys.modules["users_streams"].calls
    stream = load("slices").train
    before = len(calls)
    stream.source()
    assert len(calls) == before

    @tf.function
    def total() -> tf.Tensor:
        return stream.source().reduce(tf.constant(0, tf.int64), lambda so_far, example: so_far + example[1])

    assert int(total()) == 10
    assert len(calls) == before + 1  # built anew inside the graph


def test_wrong_streams_are_refused(users: str) -> None:
    for name, sentence in {
        "batched": r"Dataset of \(float32\[None, 4, 3\], int64\[None\]\), which looks batched",
        "whole_batches": r"Dataset of \(float32\[2, 4, 3\], int64\[2\]\), which looks batched",
        "x_only": r"Dataset of float32\[4, 3\]: each example must be \(x, y\)",
        "empty": "has no examples",
    }.items():
        with pytest.raises(Refusal, match=sentence):
            load(name)


def test_importing_starts_nothing(tmp_path: Path) -> None:
    """The modules are imported before a fork, where a device or a context that exists is a hang to come."""
    import subprocess

    program = """
import threading, os
import tensorflow as tf
from tensorflow.python.eager import context
threads = len(os.listdir("/proc/self/task"))
import distrain.worker.datasets, distrain.worker.model.models
assert context.context_safe() is None or not context.context()._initialized
assert len(os.listdir("/proc/self/task")) == threads
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path)
