"""MultiWorkerMirrored: a replica on each GPU of several tasks, or one on the CPU of each. TF_CONFIG names the tasks."""

from __future__ import annotations

import signal

import tensorflow as tf
from tensorflow.python.eager import context

from distrain.worker.assignment import Assignment
from distrain.worker.input.feed import Share
from distrain.worker.refusal import Refusal
from distrain.worker.runtime import use_gpus
from distrain.worker.strategies import communication
from distrain.worker.strategies.neighbours import Neighbours
from distrain.worker.strategies.synchronous import Synchronous
from distrain.worker.telemetry import Events

ANSWER_TIMEOUT_MS = 5000


def open_strategy(assignment: Assignment, events: Events) -> Synchronous:
    count = assignment.job["cluster"]["devices_per_worker"]
    if use_gpus(count) < count and count > 1:
        raise Refusal(
            f"cluster.devices_per_worker is {count}, but {assignment.task}'s host has not that many GPUs, and on a CPU "
            "TensorFlow's MultiWorkerMirrored has one replica a worker: set it to 1 and cluster.workers higher"
        )
    spec, options = assignment.job["strategy"], communication.options(assignment)
    strategy, neighbours = join(assignment, options)
    share = Share(first=assignment.index * count, count=count, replicas=assignment.workers * count)
    assert strategy.num_replicas_in_sync == share.replicas, (strategy.num_replicas_in_sync, share)
    summed = communication.gradient_sums(spec, options, neighbours and neighbours.summed)
    return Synchronous(strategy, share, summed, spec=spec)


def join(
    assignment: Assignment, options: tf.distribute.experimental.CommunicationOptions
) -> tuple[tf.distribute.MultiWorkerMirroredStrategy, Neighbours | None]:
    """Connect to the other workers: the strategy of all, and shared memory with them where that is the way to go."""
    neighbours = None
    spec = assignment.job["strategy"]
    auto = spec["implementation"] == "auto" and spec["pack_bytes"] is None  # which means nothing to shared memory
    if auto and assignment.one_host and assignment.workers > 1 and not tf.config.list_physical_devices("GPU"):
        meeting = f"{assignment.run}/{assignment.attempt}"
        neighbours = Neighbours(meeting, assignment.index, assignment.workers, _answers)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(implementation=options.implementation)
    )
    # TensorFlow has caught SIGTERM by now, for a notice of preemption that nobody reads: stopping would take a KILL.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if neighbours is not None:
        neighbours.meet()
    return strategy, neighbours


def _answers(index: int) -> bool:
    """Whether TensorFlow's server in that worker answers, as it does while its Python is busy, but not when it is
    stopped or its machine is.
    """
    try:
        context.context().check_collective_ops_peer_health(f"/job:worker/replica:0/task:{index}", ANSWER_TIMEOUT_MS)
    except tf.errors.OpError:
        return False
    return True
