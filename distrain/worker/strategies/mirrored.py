"""Mirrored: a replica on each device of one task."""

from __future__ import annotations

import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.input.feed import Share
from distrain.worker.runtime import local_devices
from distrain.worker.strategies import communication
from distrain.worker.strategies.synchronous import Synchronous
from distrain.worker.telemetry import Events


def open_strategy(assignment: Assignment, events: Events) -> Synchronous:
    count, spec = assignment.job["cluster"]["devices_per_worker"], assignment.job["strategy"]
    devices = local_devices(count)
    summed = communication.gradient_sums(spec, communication.options(assignment))
    strategy = tf.distribute.MirroredStrategy(devices)
    return Synchronous(strategy, Share(first=0, count=count, replicas=count), summed, spec=spec)
