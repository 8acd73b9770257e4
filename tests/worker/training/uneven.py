"""What takes its time: a model in one task of a job, and a callback."""

from __future__ import annotations

import os
import time
from typing import Any

import keras
import tensorflow as tf

SLOW_S = 0.2


class Slow(keras.layers.Layer):
    """Passes on what it gets, later."""

    def call(self, x: Any) -> Any:
        def later(value: Any) -> Any:
            time.sleep(SLOW_S)
            return value

        passed = tf.numpy_function(later, [x], x.dtype)
        return tf.ensure_shape(tf.stop_gradient(passed - x) + x, x.shape)


def network() -> keras.Model:
    slow = [Slow()] if os.environ["TEST_TASK"] == "worker-1" else []
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *slow, keras.layers.Dense(10, "softmax")])


class Pause(keras.callbacks.Callback):
    """Keeps a training from being over before a test is: `seconds` after each step."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(self._seconds)
