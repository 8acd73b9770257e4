"""distrain.fit under whatever cluster this is started in. Usage: fit_distrain.py OUT [ps]."""

import json
import os
import sys

import keras
import numpy as np

import distrain

OUT = sys.argv[1]


def make_model():
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)])
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def arrays(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 8)).astype("float32")
    return x, (x[:, :3].sum(axis=1) > 0).astype("int32") + (x[:, 3] > 0.5)


first = distrain.fit(make_model, (arrays(320, 1), arrays(96, 2)), epochs=2, batch_size=32)
# Again in the same process, with other things: a function, another model, another batch size.
second = distrain.fit(make_model, lambda: arrays(320, 1), epochs=1, batch_size=64, steps_per_epoch=3)
task = json.loads(os.environ.get("TF_CONFIG", '{"task": {"type": "alone", "index": 0}}'))["task"]
with open(f"{OUT}.{task['type']}-{task['index']}", "w") as file:
    said = {
        "first": first.history,
        "second": second.history,
        "weights": [w.tolist() for w in first.model.get_weights()],
    }
    json.dump(said, file)
