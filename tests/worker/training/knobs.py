"""What a user's own module may hold, for tests of how steps are computed and summed."""

import json
import os

import keras
import numpy as np
from user_code import numbers


def scaled_loss(scale=1.0):
    inner = keras.losses.SparseCategoricalCrossentropy()
    return lambda y, y_pred: scale * inner.fn(y, y_pred)


def summed_loss():
    return keras.losses.SparseCategoricalCrossentropy(reduction="sum")


def tokens():
    random = np.random.default_rng(3)
    x = random.integers(0, 40, [480, 6])
    return x, (x.sum(axis=1) > 117).astype(np.int32)


def embedding():
    layers = [keras.layers.Embedding(40, 8), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((6,), dtype="int32"), *layers])


def weighted(weights=False, one_hot=False):
    x, y = numbers(480, 1)
    y = keras.utils.to_categorical(y, 2) if one_hot else y
    return (x, y, np.abs(x[:, 0])) if weights else (x, y)


def two_outputs():
    x, y = numbers(480, 1)
    return x, {"a": y, "b": x[:, :1]}


def network(l2=0.01):
    dense = keras.layers.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(l2))
    return keras.Sequential([keras.Input((8,)), dense, keras.layers.Dense(2, "softmax")])


def branches():
    x = keras.Input((8,))
    hidden = keras.layers.Dense(16, "relu")(x)
    outputs = {"a": keras.layers.Dense(2, "softmax", name="a")(hidden), "b": keras.layers.Dense(1, name="b")(hidden)}
    return keras.Model(x, outputs)


def both_losses():
    return {"a": "sparse_categorical_crossentropy", "b": "mse"}


def uneven():
    """Weights of very different sizes."""
    sizes = [1, 512, 1, 64, 1, 2]
    return keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(size) for size in sizes)])


class Devices(keras.callbacks.Callback):
    """Writes down where each variable of model and optimizer lives, and how many bytes it has."""

    def on_train_begin(self, logs=None):
        groups = {"model": self.model.variables, "optimizer": self.model.optimizer.variables}
        found = {
            group: [[v.path, v.value.device, int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize] for v in variables]
            for group, variables in groups.items()
        }
        with open("devices.json", "w") as file:
            json.dump(found, file)


class Weights(keras.callbacks.Callback):
    """Writes down a sum of each weight at the end of each epoch, and of what the optimizer has of its own."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def on_epoch_end(self, epoch, logs=None):
        of = [self.model.variables, self.model.optimizer.variables]
        self.lines.append([[float(np.abs(v.numpy().astype("float64")).sum()) for v in variables] for variables in of])

    def on_train_end(self, logs=None):
        with open(f"weights-{os.environ['TEST_TASK']}.json", "w") as file:
            json.dump(self.lines, file)
