"""One worker of a MultiWorkerMirrored training as it is written by hand: plain Python, TF_CONFIG, a loop of one's own.

Run one process per worker with its TF_CONFIG: plain_worker.py FOLDER BATCH_SIZE STEPS. BATCH_SIZE is global.
The chief prints a JSON line per step, once the step's loss is on the host: {"step": 1, "loss": 2.3}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import tensorflow as tf
from mnist_task import LEARNING_RATE, build, load


def main(folder: str, batch_size: int, steps: int) -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    images, labels = load(Path(folder))

    def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
        examples = tf.data.Dataset.from_tensor_slices((images, labels))
        examples = examples.shard(context.num_input_pipelines, context.input_pipeline_id)
        examples = examples.shuffle(len(images), seed=1).repeat()
        return examples.batch(context.get_per_replica_batch_size(batch_size)).prefetch(tf.data.AUTOTUNE)

    with strategy.scope():
        model = build(keras)
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        optimizer.build(model.trainable_variables)

    def train_on(batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        images, labels = batch
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
            loss = tf.nn.compute_average_loss(losses, global_batch_size=batch_size)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    @tf.function
    def train_step(batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(train_on, args=(batch,)), axis=None)

    batches = iter(strategy.distribute_datasets_from_function(pipeline))
    is_chief = strategy.cluster_resolver.task_id == 0
    for step in range(1, steps + 1):
        loss = float(train_step(next(batches)))
        if is_chief:
            print(json.dumps({"step": step, "loss": loss}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
