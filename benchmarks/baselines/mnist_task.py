"""The training that both sides of a benchmark do: MNIST's images and a small convolutional network.

The network is layer for layer distrain's built-in `cnn`; the benchmarks compare the parameter counts of both sides.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE = 0.001


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The training images, float32 (n, 28, 28, 1) in 0..1, and labels, int32 (n,), from MNIST's own files."""
    images = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 28, 28, 1).astype(np.float32) / 255, labels.astype(np.int32)


def build(keras: Any) -> Any:
    """The network, from Keras 3 or from tf-keras: the module that is given."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(4.0),
            keras.layers.Conv2D(32, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
