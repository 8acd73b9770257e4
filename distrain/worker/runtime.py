"""How TensorFlow is set up in this process before its first op: threads, devices, seeds, precision, determinism."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from distrain.worker.assignment import Assignment


def configure(assignment: Assignment) -> None:
    """Everything that must come before the first op, other than devices."""
    training = assignment.training
    tf.config.threading.set_intra_op_parallelism_threads(assignment.threads)
    tf.config.threading.set_inter_op_parallelism_threads(assignment.threads + 1)
    if training["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(assignment.seed)
    keras.config.set_dtype_policy(training["precision"])


def use_gpus(count: int) -> int:
    """Let TensorFlow see `count` GPUs of this host, or none where there are fewer; how many it sees."""
    gpus = tf.config.list_physical_devices("GPU")
    used = gpus[:count] if len(gpus) >= count else []
    tf.config.set_visible_devices(used, "GPU")
    return len(used)


def local_devices(count: int) -> Sequence[str]:
    """`count` devices of this host by name: GPUs where there are that many, else CPUs, of which one is split."""
    if use_gpus(count):
        return [f"GPU:{index}" for index in range(count)]
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return [f"CPU:{index}" for index in range(count)]
