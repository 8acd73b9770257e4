"""tf-keras's `fit` under a distribution strategy, written with the care that its guides ask for.

Run one process per task with its TF_CONFIG; `--help` lists the options. The input is in memory, sharded by data,
repeated and prefetched, so that no epoch makes a new iterator; no validation, no checkpoint, no progress bar.
The chief prints a JSON line per epoch, {"epoch": 1, "step": 62, "time": 1.7e9}, and first {"parameters": n}.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
import tf_keras
from mnist_task import LEARNING_RATE, build, load


class Report(tf_keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        step = (epoch + 1) * self.params["steps"]
        print(json.dumps({"epoch": epoch + 1, "step": step, "time": time.time()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("strategy", choices=("MultiWorkerMirrored", "ParameterServer"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=128, help="of a step: global; ParameterServer: of one worker")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps-per-execution", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of a compute task; 0: TensorFlow chooses")
    options = parser.parse_args()

    role = json.loads(os.environ["TF_CONFIG"])["task"]["type"]
    threads = options.threads
    if options.strategy == "ParameterServer" and role in ("worker", "ps"):
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        # Only the threads within an operation: a server with a single one between operations deadlocks.
        limits = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
        server = tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=role,
            task_index=resolver.task_id,
            config=limits if role == "worker" else None,
        )
        server.join()
    if options.strategy == "MultiWorkerMirrored":
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        train(tf.distribute.MultiWorkerMirroredStrategy(), options)
    else:
        train(tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver()), options)


def train(strategy: tf.distribute.Strategy, options: argparse.Namespace) -> None:
    images, labels = load(options.folder)

    def pipeline(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        examples = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images), seed=1).repeat()
        examples = examples.batch(options.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        sharding = tf.data.Options()
        sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return examples.with_options(sharding)

    with strategy.scope():
        model = build(tf_keras)
        model.compile(
            optimizer=tf_keras.optimizers.Adam(LEARNING_RATE),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=options.steps_per_execution,
        )
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        source, is_chief = tf_keras.utils.experimental.DatasetCreator(pipeline), True
    else:
        source, is_chief = pipeline(), strategy.cluster_resolver.task_id == 0
    if is_chief:
        print(json.dumps({"parameters": model.count_params()}), flush=True)
    model.fit(
        source,
        epochs=options.epochs,
        steps_per_epoch=len(images) // options.batch_size,
        callbacks=[Report()] if is_chief else [],
        verbose=0,
    )


if __name__ == "__main__":
    main()
