"""How a job wants gradients to be summed over replicas: `implementation`, `pack_bytes` and `compression` of `strategy`.

Owns what these mean to TensorFlow; what 16 bits do to gradients is `compression`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.refusal import Refusal
from distrain.worker.strategies.compression import Sum, compressed


def options(assignment: Assignment) -> tf.distribute.experimental.CommunicationOptions:
    """TensorFlow's options for sums of gradients. `use_gpus` has been called.

    Raises:
        Refusal: the job wants NCCL on a host without enough GPUs.
    """
    spec = assignment.job["strategy"]
    kind = tf.distribute.experimental.CommunicationImplementation[spec["implementation"].upper()]
    gpus = len(tf.config.get_visible_devices("GPU"))
    if spec["implementation"] == "nccl" and gpus < assignment.job["cluster"]["devices_per_worker"]:
        raise Refusal(
            f"strategy.implementation is nccl, which sums among GPUs, but {assignment.task}'s host has not "
            f"{assignment.job['cluster']['devices_per_worker']} of them: set it to auto"
        )
    return tf.distribute.experimental.CommunicationOptions(implementation=kind, bytes_per_pack=spec["pack_bytes"] or 0)


def gradient_sums(
    spec: Mapping[str, Any], wanted: tf.distribute.experimental.CommunicationOptions, in_memory: Sum | None = None
) -> Sum:
    """Sums over all replicas as the job's strategy, `spec`, wants them. `in_memory`: a way for tasks of one host.

    There packs mean nothing, and 16 bits save nothing; but gradients are rounded to them, so that a job learns alike
    wherever it runs.
    """

    def reduced(values: Sequence[Any]) -> Sequence[Any]:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, list(values), options=wanted)

    summed = in_memory or reduced
    if spec["compression"] == "none":
        return summed
    return compressed(summed, spec["compression"], travels=in_memory is None)
