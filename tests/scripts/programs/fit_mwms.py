"""TensorFlow's multi-worker tutorial with Keras, as it is written there but for the data and the many calls.

Usage: fit_mwms.py keras|tf.keras OUT.json [key=value…]. Without TF_CONFIG it trains alone.
"""

import json
import os
import sys

import numpy as np
import tensorflow as tf

SPELLING, OUT, *OPTIONS = sys.argv[1:]
OPTIONS = dict(option.split("=") for option in OPTIONS)
if SPELLING == "keras":
    import keras
else:
    keras = tf.keras

BATCH_SIZE = 32


def arrays(count, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 8)).astype("float32")
    return x, (x[:, :3].sum(axis=1) > 0).astype("int32") + (x[:, 3] > 0.5)


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE)


def build_and_compile_model():
    model = keras.Sequential(
        [
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.1) if OPTIONS.get("optimizer") == "sgd" else keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=int(OPTIONS.get("steps_per_execution", 1)),
    )
    return model


strategy = tf.distribute.MultiWorkerMirroredStrategy()
keras.utils.set_random_seed(7)
with strategy.scope():
    model = build_and_compile_model()

x, y = arrays(320, 1)
x_val, y_val = arrays(96, 2)
said = {}
said["dataset"] = model.fit(dataset(x, y), epochs=2, validation_data=dataset(x_val, y_val), verbose=0).history
said["steps"] = model.fit(dataset(x, y).repeat(), epochs=1, steps_per_epoch=8, verbose=0).history
said["arrays"] = model.fit(x, y, batch_size=BATCH_SIZE, epochs=2, validation_split=0.2, verbose=0).history
said["class_weight"] = model.fit(
    x, y, batch_size=BATCH_SIZE, shuffle=False, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, verbose=0
).history
said["sample_weight"] = model.fit(
    x, y, batch_size=BATCH_SIZE, shuffle=False, sample_weight=np.linspace(0.5, 1.5, len(x)), verbose=0
).history
said["evaluate"] = model.evaluate(dataset(x_val, y_val), return_dict=True, verbose=0)
said["evaluate_arrays"] = model.evaluate(x_val, y_val, batch_size=BATCH_SIZE, return_dict=True, verbose=0)
said["predict"] = model.predict(dataset(x_val, y_val), verbose=0).tolist()
said["predict_part"] = model.predict(x_val[:70], batch_size=BATCH_SIZE, verbose=0).tolist()
said["weights"] = [weight.tolist() for weight in model.get_weights()]
task = json.loads(os.environ.get("TF_CONFIG", '{"task": {"type": "alone", "index": 0}}'))["task"]
with open(f"{OUT}.{task['type']}-{task['index']}", "w") as file:
    json.dump(said, file)
