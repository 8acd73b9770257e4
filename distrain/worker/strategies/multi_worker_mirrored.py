"""MultiWorkerMirrored: a replica on each device of several tasks, which TF_CONFIG names."""

from __future__ import annotations

import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.feed import Share
from distrain.worker.runtime import local_devices
from distrain.worker.strategies.synchronous import Synchronous


def open_strategy(assignment: Assignment) -> Synchronous:
    count = assignment.job["cluster"]["devices_per_worker"]
    local_devices(count)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    share = Share(first=assignment.index * count, count=count, replicas=assignment.workers * count)
    assert strategy.num_replicas_in_sync == share.replicas, (strategy.num_replicas_in_sync, share)
    return Synchronous(strategy, share)
