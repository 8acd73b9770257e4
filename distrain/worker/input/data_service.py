"""tf.data's service as an input cluster: data workers prepare the batches that other tasks train on.

Owns both sides: the servers that the roles `dispatcher` and `data` are, and how those who train have batches prepared.
What is in a batch is `feed`'s.

In order, batch number k is made by data worker k modulo n. Each of those who train registers one dataset for each data
worker; every data worker gets them all, finds out its own place among the addresses that the dispatcher knows (the
service's static sharding), and yields what is meant for it alone. The batches come numbered and are taken in turn. A
data worker that is started again at its address begins anew, and what had been taken already is passed over by its
number: no batch is lost or seen twice.

As they come, the service deals out files as data workers ask for them, and each batch goes to whoever asks first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from distrain.wire import SCRATCH
from distrain.worker.assignment import Assignment
from distrain.worker.refusal import Refusal
from distrain.worker.runtime import configure
from distrain.worker.telemetry import Events
from distrain.worker.vitals import Vitals

plainly = tf.autograph.experimental.do_not_convert
"""What needs no conversion is not to be read again from its file, which may be another one by then."""
HEARTBEAT_MS = 500
"""How often a data worker tells the dispatcher that it is there; one that was started again is found as soon."""

LOOK_INTERVAL_S = 0.1

_service = tf.data.experimental.service
_PYTHON = ("PyFunc", "EagerPyFunc", "PyFuncStateless")


def serve(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    """Be the dispatcher or a data worker until SIGTERM, which ends the process. Does not return."""
    configure(assignment)
    events.phase("connecting")
    # Before the server's threads are made, which might otherwise be the ones to get it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    server = _dispatcher if assignment.role == "dispatcher" else _data_worker
    with server(assignment):
        events.ready(parameters=0, replicas=0)
        with vitals.within("serving"):
            signal.sigwait([signal.SIGTERM])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _dispatcher(assignment: Assignment) -> Iterator[Any]:
    # Its journal lets one that is started again know what it dealt out, and be it after SIGTERM.
    journal = assignment.run_dir / SCRATCH / f"data-service-{assignment.attempt}"
    journal.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = _service.DispatchServer(  # which ends when nobody holds it any more
        _service.DispatcherConfig(
            port=_port(assignment.data_service["dispatcher"]),
            work_dir=str(journal),
            fault_tolerant_mode=True,
            worker_addresses=list(assignment.data_service["workers"]),
        )
    )
    yield server


@contextlib.contextmanager
def _data_worker(assignment: Assignment) -> Iterator[Any]:
    address = assignment.data_service["workers"][assignment.index]
    server = _service.WorkerServer(
        _service.WorkerConfig(
            dispatcher_address=assignment.data_service["dispatcher"],
            worker_address=address,
            port=_port(address),
            heartbeat_interval_ms=HEARTBEAT_MS,
            dispatcher_timeout_ms=int(assignment.job["cluster"]["start_timeout_s"] * 1000),
        )
    )
    yield server


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


@dataclass(frozen=True)
class InputCluster:
    """The side of those who train. `mark` tells one attempt of a run from another."""

    dispatcher: str
    workers: int
    mark: str

    @classmethod
    def of(cls, assignment: Assignment) -> InputCluster | None:
        service = assignment.data_service
        if service is None:
            return None
        return cls(service["dispatcher"], len(service["workers"]), f"{assignment.run}/{assignment.attempt}")

    def in_order(self, part: Callable[[int, int], tf.data.Dataset]) -> tf.data.Dataset:
        """The batches number i, i + n, … of `part(i, n)` for each i below n, in the order of their numbers, until one
        is not there. Waits until all data workers are.
        """
        parts = [self._of_one(place, part(place, self.workers)) for place in range(self.workers)]
        turns = tf.data.Dataset.range(self.workers).repeat()
        self._wait_for_all()
        return tf.data.Dataset.choose_from_datasets(parts, turns, stop_on_empty_dataset=True)

    def _wait_for_all(self) -> None:
        """Until the dispatcher knows every data worker. Of those that it does not know when a dataset is begun, nothing
        would be missed: their parts would be empty.
        """
        places = self._own_place().apply(_service.distribute(_service.ShardingPolicy.HINT, self._address))
        while len(list(places)) < self.workers:
            time.sleep(LOOK_INTERVAL_S)

    def _own_place(self) -> tf.data.Dataset:
        """Of each data worker, by the service's static sharding: its number."""
        hint = tf.data.experimental.SHARD_HINT
        return tf.data.Dataset.range(self.workers).shard(hint, hint)

    def _of_one(self, place: int, batches: tf.data.Dataset) -> tf.data.Dataset:
        """`batches`, as the data worker at `place` prepares them."""
        numbered = _without_python(batches).enumerate()

        def all_or_none(own: tf.Tensor) -> tf.data.Dataset:
            return numbered.take(tf.where(own == place, tf.constant(-1, tf.int64), tf.constant(0, tf.int64)))

        def pass_over(expected: tf.Tensor, found: Any) -> Any:
            number, batch = found
            new = number == expected
            return expected + tf.cast(new, tf.int64), (new, batch)

        sent = self._own_place().flat_map(plainly(all_or_none))
        received = sent.apply(_service.distribute(_service.ShardingPolicy.HINT, self._address))
        seen = received.scan(tf.zeros([], tf.int64), plainly(pass_over))
        return seen.filter(plainly(lambda new, _: new)).map(plainly(lambda _, batch: batch))

    def as_they_come(self, batches: tf.data.Dataset, name: str) -> tf.data.Dataset:
        """`batches`, divided among all who ask under the same `name`."""
        return _without_python(batches).apply(
            _service.distribute(_service.ShardingPolicy.DYNAMIC, self._address, job_name=f"{self.mark}/{name}")
        )

    @property
    def _address(self) -> str:
        return f"grpc://{self.dispatcher}"


def _without_python(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """
    Raises:
        Refusal: `dataset` runs Python code, or uses something else that stays in this process.
    """
    try:
        serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(dataset)).numpy()
    except tf.errors.OpError as error:
        reason = error.message.splitlines()[0]
        raise Refusal(
            f"the dataset cannot be sent to data workers: leave cluster.data_workers out ({reason})"
        ) from error
    graph = tf.compat.v1.GraphDef.FromString(serialized)
    functions = (node for function in graph.library.function for node in function.node_def)
    if any(node.op in _PYTHON for nodes in (graph.node, functions) for node in nodes):
        raise Refusal(
            "the dataset runs Python for each example (a generator, tf.py_function), which data workers cannot: leave "
            "cluster.data_workers out, or write it in TensorFlow's own operations"
        )
    return dataset
