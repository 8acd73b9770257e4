"""What a strategy gives back to its replicas: a training that goes on is the one that was never left."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.tensorflow

PROGRAM = """
import keras, numpy as np, pytest, tensorflow as tf
from distrain.worker.datasets import Dataset, InMemory
from distrain.worker.input.feed import Order, Pipeline, Share
from distrain.worker.refusal import Refusal
from distrain.worker.runtime import local_devices
from distrain.worker.model.step import build
from distrain.worker.strategies.interface import Plan
from distrain.worker.strategies.synchronous import Synchronous

devices = local_devices(2)
tf.config.experimental.enable_op_determinism()
random = np.random.default_rng(0)
x, y = random.standard_normal((64, 6)).astype("float32"), random.integers(0, 3, 64)
dataset = Dataset(InMemory(x, y, 64), None, (6,), 3)
order = Order(size=64, batch_size=8, steps_per_epoch=40, seed=1, shuffle=True)

def open_strategy(replicas):
    strategy = tf.distribute.MirroredStrategy(devices[:replicas])
    driver = Synchronous(strategy, Share(0, replicas, replicas))
    keras.utils.set_random_seed(7)
    with driver.scope():
        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        spec = tf.TensorSpec([None, 6], tf.float32), tf.TensorSpec([None], tf.int64)
        build(model, *spec)
    driver.bind(Plan(model, dataset, order, Pipeline(False, None), False, 5))
    return driver, model

def run(driver, first, last):
    *_, call = driver.run(first, last, lambda: False)
    return call

def variables(model):
    of_metrics = {id(v) for v in model.metrics_variables}
    return [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in of_metrics]

whole, model = open_strategy(2)
whole.restore(None, None)
half = run(whole, 0, 15)
held = [v.numpy() for v in variables(model)]
end = run(whole, 15, 30)
assert half.rows.shape == (2, 4) and half.rows.dtype == np.float64
assert (half.rows[0] != half.rows[1]).any()
assert half.metrics["loss"] == np.float32(half.rows[:, 0].sum()) / np.float32(half.rows[:, 1].sum())
assert half.busy_s > 0
states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
assert len({bytes(local.numpy()) for local in states[0].value.values}) == 2, "each replica draws for itself"

again, other = open_strategy(2)
with again.scope():
    for variable, value in zip(variables(other), held):
        variable.assign(value)
again.restore(half.rows, None)
resumed = run(again, 15, 30)
assert resumed.losses.tobytes() == end.losses.tobytes()
assert resumed.rows.tobytes() == end.rows.tobytes()
assert resumed.metrics == end.metrics
for a, b in zip(variables(model), variables(other)):
    for one, two in zip(getattr(a.value, "values", [a.value]), getattr(b.value, "values", [b.value])):
        assert one.numpy().tobytes() == two.numpy().tobytes(), a.path

alone, _ = open_strategy(1)
alone.restore(half.rows, None)
assert alone._metrics.packed().numpy().tolist() == np.float32(half.rows.sum(axis=0)).tolist(), "it has what both had"
alone.restore(None, None)
assert not alone._metrics.packed().numpy().any()
with pytest.raises(Refusal, match="go on with the metrics that training began with"):
    alone.restore(half.rows[:, 1:], None)
print("as it was")
"""


def test_replicas_that_are_restored_go_on_as_if_nothing_had_been() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("as it was\n")
