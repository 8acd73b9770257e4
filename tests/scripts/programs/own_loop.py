"""A training loop of one's own under MultiWorkerMirroredStrategy, after TensorFlow's guide. Usage: own_loop.py OUT."""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from distrain import report

STEPS, BATCH_SIZE = 8, 32
strategy = tf.distribute.MultiWorkerMirroredStrategy()
keras.utils.set_random_seed(7)
x = np.random.default_rng(1).normal(size=(STEPS * BATCH_SIZE, 8)).astype("float32")
y = x[:, :3].sum(axis=1, keepdims=True)
dataset = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE))
with strategy.scope():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.05)
    optimizer.build(model.trainable_variables)


@tf.function
def train_step(batch):
    def step(x, y):
        with tf.GradientTape() as tape:
            losses = tf.reduce_mean((model(x, training=True) - y) ** 2, axis=-1)
            loss = tf.nn.compute_average_loss(losses, global_batch_size=BATCH_SIZE)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step, args=batch), axis=None)


losses = []
for batch in dataset:
    losses.append(float(train_step(batch)))
    report(step=len(losses), steps=STEPS, loss=losses[-1])
with open(f"{sys.argv[1]}.{os.environ['DISTRAIN_RANK']}", "w") as file:
    json.dump(losses, file)
