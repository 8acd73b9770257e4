"""Callbacks that write, made alike by every worker. Usage: callbacks_mwms.py FOLDER EPOCHS [STOP_AFTER]."""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

import distrain

FOLDER, EPOCHS, STOP_AFTER = sys.argv[1], int(sys.argv[2]), int((*sys.argv[3:], 99)[0])
TASK = os.environ["DISTRAIN_INDEX"]


class Seen(keras.callbacks.Callback):
    """What each epoch said; and a death before the epoch after `STOP_AFTER`."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == STOP_AFTER:
            raise SystemExit(0)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append([epoch, logs["loss"], logs["val_loss"]])


strategy = tf.distribute.MultiWorkerMirroredStrategy()
keras.utils.set_random_seed(7)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")

x = np.random.default_rng(1).normal(size=(160, 8)).astype("float32")
y = x[:, :3].sum(axis=1)
seen = Seen()
model.fit(
    x,
    y,
    batch_size=32,
    epochs=EPOCHS,
    shuffle=False,
    validation_split=0.2,
    verbose=0,
    callbacks=[
        keras.callbacks.ModelCheckpoint(f"{FOLDER}/best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(FOLDER + "/epoch-{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.CSVLogger(f"{FOLDER}/log.csv"),
        keras.callbacks.BackupAndRestore(f"{FOLDER}/backup"),
        distrain.keras_callback(),
        seen,
    ],
)
with open(f"{FOLDER}/seen-{TASK}.json", "w") as file:
    json.dump({"epochs": seen.epochs, "weights": [weight.tolist() for weight in model.get_weights()]}, file)
