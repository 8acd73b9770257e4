"""Which examples make up which step, and how they reach the model.

The order is a pure function of (seed, epoch, step): the global batch of a step is the same whatever the number of
workers and replicas, each of which takes its own contiguous part of it. In memory, a start at any step costs nothing;
a stream is read from the epoch's start.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from distrain.worker.datasets import InMemory, Stream

STREAM_SHUFFLE_EXAMPLES = 20_000
"""How many examples of a stream are held to draw from; in memory, the order is drawn from all."""


@dataclass(frozen=True)
class Order:
    """In which order examples are taken. `steps_per_epoch` steps of `batch_size` examples; more of them than `size`
    holds go on with a further pass, in another order.
    """

    size: int
    batch_size: int
    steps_per_epoch: int
    seed: int
    shuffle: bool

    def indices(self, step: tf.Tensor, first: int, count: int) -> tf.Tensor:
        """int64 indices of the examples at places `first` to `first + count` of the global batch of `step`."""
        epoch, within = step // self.steps_per_epoch, step % self.steps_per_epoch
        places = within * self.batch_size + first + tf.range(count, dtype=tf.int64)
        passes, places = places // self.size, places % self.size
        if not self.shuffle or self.size == 1:
            return places
        seeds = tf.stack([tf.fill([count], tf.cast(self.seed, tf.int64)), tf.fill([count], epoch), passes], axis=1)
        # A bijection of the places, computed one by one. (tf.random's wrapper of it does not take a seed for each.)
        return tf.raw_ops.RandomIndexShuffle(index=places, seed=seeds, max_index=tf.constant(self.size - 1, tf.int64))


@dataclass(frozen=True)
class Share:
    """Which replicas of all are this task's: `count` of `replicas`, from `first` on."""

    first: int
    count: int
    replicas: int

    @property
    def worker(self) -> int:
        return self.first // self.count

    @property
    def workers(self) -> int:
        return self.replicas // self.count


def take(arrays: Any, indices: tf.Tensor) -> Any:
    return tf.nest.map_structure(lambda array: tf.gather(array, indices), arrays)


def prepared(examples: InMemory, batch: tuple[Any, Any]) -> tuple[Any, Any]:
    return examples.prepare(*batch) if examples.prepare else batch


def resident(examples: InMemory) -> Any:
    """The arrays as tensors in the host's memory, whatever devices there are."""
    with tf.device("CPU:0"):
        return tf.nest.map_structure(tf.constant, (examples.x, examples.y))


class MemoryFeed:
    """Training batches gathered in the graph from arrays in memory."""

    def __init__(self, examples: InMemory, order: Order, share: Share) -> None:
        self._examples = examples
        self._arrays = resident(examples)
        self._order = order
        self._share = share

    def open(self, step: int) -> None:
        """There is nothing to open."""

    def batches(self, step: tf.Tensor, source: None) -> list[tuple[Any, Any]]:
        """In the graph: the part of the batch of `step` for each replica of this task."""
        count = self._order.batch_size // self._share.replicas
        first = self._share.first * count
        with tf.device("CPU:0"):
            return [
                take(self._arrays, self._order.indices(step, first + replica * count, count))
                for replica in range(self._share.count)
            ]

    def prepared(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        return prepared(self._examples, batch)


@dataclass(frozen=True)
class Pipeline:
    """How a stream is read. `cache`: keep its examples in memory after the first pass; `prefetch`: batches ahead."""

    cache: bool
    prefetch: int | None

    def examples(self, stream: Stream) -> tf.data.Dataset:
        dataset = stream.make()
        return dataset.cache() if self.cache else dataset

    def ahead(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        return batches.prefetch(tf.data.AUTOTUNE if self.prefetch is None else self.prefetch)


class StreamFeed:
    """Training batches read from a stream: every worker reads all of it and keeps its part of each global batch."""

    def __init__(self, stream: Stream, order: Order, share: Share, pipeline: Pipeline) -> None:
        self._dataset = pipeline.examples(stream)
        self._order = order
        self._share = share
        self._pipeline = pipeline

    def open(self, step: int) -> Any:
        """An iterator over this worker's part of the batches from `step` on."""
        order, share = self._order, self._share
        epoch, within = divmod(step, order.steps_per_epoch)
        examples = self._dataset
        if order.shuffle:
            held = min(order.size, STREAM_SHUFFLE_EXAMPLES)
            examples = examples.shuffle(held, seed=order.seed + 1_000_003 * epoch, reshuffle_each_iteration=False)
        batches = examples.repeat().batch(order.batch_size // share.workers, drop_remainder=True)
        batches = batches.shard(share.workers, share.worker).skip(within)
        return iter(self._pipeline.ahead(batches))

    def batches(self, step: tf.Tensor, source: Any) -> list[tuple[Any, Any]]:
        return split(next(source), self._share.count)

    def prepared(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        return batch


def split(batch: tuple[Any, Any], parts: int) -> list[tuple[Any, Any]]:
    """`batch` cut into `parts` of nearly equal size."""
    if parts == 1:
        return [batch]
    size = tf.shape(tf.nest.flatten(batch)[0])[0]
    edges = [size * part // parts for part in range(parts + 1)]
    return [
        tf.nest.map_structure(lambda leaf, start=start, stop=stop: leaf[start:stop], batch)
        for start, stop in itertools.pairwise(edges)
    ]


@dataclass(frozen=True)
class Cells:
    """Validation examples cut into equal cells, one a step and replica, so that each example is in exactly one."""

    size: int
    steps: int
    replicas: int

    @classmethod
    def of(cls, size: int, batch_size: int, replicas: int) -> Cells:
        """About `batch_size` examples a step, and none of the cells empty while there are as many examples as
        replicas."""
        return cls(size, max(1, min(-(-size // batch_size), size // replicas)), replicas)

    def indices(self, step: tf.Tensor, replica: int) -> tf.Tensor:
        """int64 indices of the examples that `replica` (of all) sees in `step`."""
        cell, cells = step * self.replicas + replica, self.steps * self.replicas
        return tf.range(self.size * cell // cells, self.size * (cell + 1) // cells, dtype=tf.int64)


def shapes(examples: Sequence[Any] | InMemory | Stream) -> tuple[Any, Any]:
    """`tf.TensorSpec`s of a prepared batch of any size."""
    if isinstance(examples, Stream):
        return tf.nest.map_structure(
            lambda spec: tf.TensorSpec([None, *spec.shape], spec.dtype), tuple(examples.make().element_spec)
        )
    specs = tf.nest.map_structure(
        lambda array: tf.TensorSpec([None, *array.shape[1:]], tf.as_dtype(array.dtype)), (examples.x, examples.y)
    )
    if examples.prepare is None:
        return specs
    graph = tf.Graph()
    with graph.as_default():
        prepared_batch = examples.prepare(
            *tf.nest.map_structure(lambda s: tf.compat.v1.placeholder(s.dtype, s.shape), specs)
        )
    return tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), prepared_batch)
