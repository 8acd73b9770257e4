"""OneDevice: one replica, in one task."""

from __future__ import annotations

import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.input.feed import Share
from distrain.worker.runtime import local_devices
from distrain.worker.strategies.synchronous import Synchronous
from distrain.worker.telemetry import Events


def open_strategy(assignment: Assignment, events: Events) -> Synchronous:
    (device,) = local_devices(1)
    share = Share(first=0, count=1, replicas=1)
    return Synchronous(tf.distribute.OneDeviceStrategy(device), share, spec=assignment.job["strategy"])
