"""Which examples make up which step, and how they reach the model.

The order is a pure function of (seed, epoch, step): the global batch of a step is the same whatever the number of
workers and replicas, each of which takes its own contiguous part of it. In memory, a start at any step costs nothing;
a stream is read from the epoch's start, but decoded from the step's.

Where each worker reads files of its own, the global batch is what all of them draw from their files: the same whenever
the step is taken, but another one for another number of workers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from distrain.worker.datasets import InMemory, Stream
from distrain.worker.input.data_service import InputCluster
from distrain.worker.input.pipeline import Pipeline


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


def prepared(examples: InMemory | Stream, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the model is fed of `batch`: `(x, y)`, or `(x, y, w)` with float32 weights of the examples."""
    x, y, *w = batch
    if isinstance(examples, InMemory) and examples.prepare:
        x, y = examples.prepare(x, y)
    return (x, y, *(tf.cast(weights, tf.float32) for weights in w))


def resident(examples: InMemory) -> Any:
    """The arrays as tensors in the host's memory, whatever devices there are."""
    with tf.device("CPU:0"):
        return tf.nest.map_structure(tf.constant, _arrays(examples))


def _arrays(examples: InMemory) -> tuple[Any, ...]:
    weights = () if examples.w is None else (examples.w,)
    return (examples.x, examples.y, *weights)


class MemoryFeed:
    """Training batches gathered in the graph from arrays in memory."""

    def __init__(self, examples: InMemory, order: Order, share: Share) -> None:
        self._examples = examples
        self._arrays = resident(examples)
        self._order = order
        self._share = share

    def open(self, step: int) -> None:
        """There is nothing to open."""

    def batches(self, step: tf.Tensor, source: None) -> list[tuple[Any, ...]]:
        """In the graph: the part of the batch of `step` for each replica of this task."""
        count = self._order.batch_size // self._share.replicas
        first = self._share.first * count
        with tf.device("CPU:0"):
            return [
                take(self._arrays, self._order.indices(step, first + replica * count, count))
                for replica in range(self._share.count)
            ]

    def prepared(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        return prepared(self._examples, batch)


class StreamFeed:
    """Training batches read from a stream, by this worker itself or by the pipeline's input cluster."""

    def __init__(self, stream: Stream, order: Order, share: Share, pipeline: Pipeline) -> None:
        self._stream = stream
        self._order = order
        self._share = share
        own_files = pipeline.shard == "files"
        # Whose files this worker reads: its own, or everybody's.
        self._reader = (share.worker, share.workers) if own_files else (0, 1)
        self._pipeline = pipeline
        if share.workers > 1 and not own_files and pipeline.cluster is None:
            self._pipeline = pipeline.shared()
        # One dataset for all epochs, for it is what holds the examples that are kept.
        self._kept = self._pipeline.examples(stream, *self._reader) if pipeline.cache else None

    def open(self, step: int) -> Any:
        """An iterator over this worker's part of the batches from `step` on."""
        cluster = self._pipeline.cluster
        if cluster is None:
            batches = self._from(step)
        elif self._pipeline.deterministic:
            batches = cluster.in_order(lambda place, places: self._from(step, place, places))
        else:
            batches = cluster.as_they_come(self._any_from(step, cluster), f"train/{step}")
        return iter(self._pipeline.ahead(batches))

    def _from(self, step: int, place: int = 0, places: int = 1) -> tf.data.Dataset:
        """This worker's batches from `step` on, of which only number `place`, `place + places`, … are made."""
        order, share, pipeline, stream = self._order, self._share, self._pipeline, self._stream
        epoch, within = divmod(step, order.steps_per_epoch)
        seed = self._seed(epoch)
        records, held = (self._kept, order.size) if self._kept else pipeline.records(stream, seed, *self._reader)
        if seed is not None and held > 1:
            records = records.shuffle(min(held, order.size), seed=seed, reshuffle_each_iteration=False)
        size = order.batch_size // share.workers
        batches = records.repeat().batch(size, drop_remainder=True)
        _, readers = self._reader
        batches = batches.shard(share.workers // readers, share.worker // readers).skip(within).shard(places, place)
        return batches if self._kept else pipeline.batched(stream, batches, size)

    def _any_from(self, step: int, cluster: InputCluster) -> tf.data.Dataset:
        """Batches of those examples that a data worker has been dealt. What is left of an epoch is drawn anew."""
        order, pipeline, stream, seed = self._order, self._pipeline, self._stream, self._seed(step)
        records, held = pipeline.records(stream, seed)
        if seed is not None and held > 1:
            # A data worker takes files until it holds so many: few enough that all get some.
            records = records.shuffle(max(1, min(held, order.size // (2 * cluster.workers))), seed=seed)
        size = order.batch_size // self._share.workers
        return pipeline.decoded(stream, records.repeat()).batch(size, drop_remainder=True)

    def _seed(self, number: int) -> int | None:
        return self._order.seed + 1_000_003 * number if self._order.shuffle else None

    def batches(self, step: tf.Tensor, source: Any) -> list[tuple[Any, ...]]:
        return split(next(source), self._share.count)

    def prepared(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        return prepared(self._stream, batch)


def drawn_at_random(stream: Stream, order: Order, pipeline: Pipeline) -> tf.data.Dataset:
    """Whole global batches without end, for a worker that draws for itself: another draw each time that this is made,
    in a graph or outside.
    """
    records, held = (pipeline.examples(stream), order.size) if pipeline.cache else pipeline.records(stream)
    if order.shuffle:
        seed = tf.cast(tf.timestamp() * 1e6, tf.int64)
        records = records.shuffle(min(held, order.size), seed=seed)
    examples = records.repeat() if pipeline.cache else pipeline.decoded(stream, records.repeat())
    return pipeline.ahead(examples.batch(order.batch_size, drop_remainder=True))


def validation_batches(stream: Stream, batch_size: int, share: Share, pipeline: Pipeline) -> tf.data.Dataset:
    """This worker's part of all examples, each of which is in exactly one worker's, in order."""
    size = batch_size // share.workers
    if share.workers > 1 or pipeline.cluster is not None:
        pipeline = pipeline.shared()
    records, _ = pipeline.records(stream)
    mine = records.batch(size).shard(share.workers, share.worker)

    def batches(place: int = 0, places: int = 1) -> tf.data.Dataset:
        return pipeline.batched(stream, mine.shard(places, place), size, cut=False)

    if pipeline.cluster is not None:
        return pipeline.ahead(pipeline.cluster.in_order(batches))
    return pipeline.ahead(batches().cache() if pipeline.cache else batches())


def split(batch: tuple[Any, ...], parts: int) -> list[tuple[Any, ...]]:
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


def shapes(examples: InMemory | Stream) -> tuple[Any, Any]:
    """`tf.TensorSpec`s of the x and y of a prepared batch of any size."""
    if isinstance(examples, Stream):
        x, y, *_ = Pipeline(cache=False, prefetch=None).examples(examples).element_spec
        return tf.nest.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape], spec.dtype), (x, y))
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
