"""MultiWorkerMirrored: a replica on each GPU of several tasks, or one on the CPU of each. TF_CONFIG names the tasks."""

from __future__ import annotations

import signal

import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.feed import Share
from distrain.worker.refusal import Refusal
from distrain.worker.runtime import use_gpus
from distrain.worker.strategies.neighbours import Neighbours
from distrain.worker.strategies.synchronous import Synchronous
from distrain.worker.telemetry import Events


def open_strategy(assignment: Assignment, events: Events) -> Synchronous:
    count = assignment.job["cluster"]["devices_per_worker"]
    if use_gpus(count) < count and count > 1:
        raise Refusal(
            f"cluster.devices_per_worker is {count}, but {assignment.task}'s host has not that many GPUs, and on a CPU "
            "TensorFlow's MultiWorkerMirrored has one replica a worker: set it to 1 and cluster.workers higher"
        )
    neighbours = None
    if assignment.one_host and assignment.workers > 1 and not tf.config.list_physical_devices("GPU"):
        neighbours = Neighbours(f"{assignment.run}/{assignment.attempt}", assignment.index, assignment.workers)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow has caught SIGTERM by now, for a notice of preemption that nobody reads: stopping would take a KILL.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    share = Share(first=assignment.index * count, count=count, replicas=assignment.workers * count)
    assert strategy.num_replicas_in_sync == share.replicas, (strategy.num_replicas_in_sync, share)
    if neighbours is None:
        return Synchronous(strategy, share)
    neighbours.meet()
    return Synchronous(strategy, share, neighbours.summed)
