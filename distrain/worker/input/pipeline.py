"""From a stream to batches of its examples: reading, decoding, and what is done at once or ahead.

Owns how records are read and decoded, by the keys of the job. Which of them make up a step is `feed`'s.

    files ── read 16 in turn ──> records ── draw, take a worker's part ──> records ── decode ──> examples ──> batches

Decoding comes last, so that no worker decodes what another one trains on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import InMemory, Stream
from distrain.worker.datasets.examples import Files
from distrain.worker.input.data_service import InputCluster, plainly
from distrain.worker.refusal import Refusal

FILES_AT_ONCE = 16
"""Files whose records are taken in turn. Always so many, or `parallel_reads` would change the order of the examples."""
IN_A_ROW = 16
"""Records that are taken of a file before it is the next one's turn."""

_OF_STREAMS = (
    ("parallel_reads", None, "dataset.parallel_reads"),
    ("parallel_calls", None, "dataset.parallel_calls"),
    ("deterministic", True, "dataset.deterministic"),
)
"""What means nothing to arrays in memory: each key, its value where it is not given, and its name in the job."""


@dataclass(frozen=True)
class Pipeline:
    """How a stream is read. `cache`: keep its examples in memory after the first pass; `prefetch`: batches ahead.

    `shard`: "files" has each worker read its own ones, anything else all of them, of which it takes its part.
    `parallel_reads`, `parallel_calls`: files read and examples decoded at once; None: TensorFlow chooses.
    `deterministic`: examples are decoded in the same order every time; `ordered`: records are read so. `cluster`: who
    prepares the batches of training and validation; None: each worker its own.
    """

    cache: bool
    prefetch: int | None
    shard: str = "auto"
    parallel_reads: int | None = None
    parallel_calls: int | None = None
    deterministic: bool = True
    ordered: bool = True
    cluster: InputCluster | None = None

    @classmethod
    def of(cls, assignment: Assignment) -> Pipeline:
        training, dataset = assignment.training, assignment.job["dataset"]
        return cls(
            training["cache"],
            training["prefetch"],
            dataset["shard"],
            dataset["parallel_reads"],
            dataset["parallel_calls"],
            dataset["deterministic"],
            dataset["deterministic"],
            InputCluster.of(assignment),
        )

    def shared(self) -> Pipeline:
        """For several who each take a part of what all of them read: an example would be in two parts, or in none, if
        they did not read alike. What one of them has taken it may decode in any order, unless it is taken decoded.
        """
        return replace(self, ordered=True, deterministic=self.deterministic or self.cache)

    def check(self, examples: InMemory | Stream, workers: int) -> None:
        """See that `workers` can read the training examples in this way.

        Raises:
            Refusal: they cannot.
        """
        if isinstance(examples, InMemory):
            if self.cluster is not None:
                raise Refusal(
                    "the dataset is held in memory by every worker, and data workers have nothing to prepare: leave "
                    "cluster.data_workers out, or use a dataset that is streamed"
                )
            if self.shard == "files":
                raise Refusal("the dataset is held in memory by every worker: leave dataset.shard out")
            for key, usual, path in _OF_STREAMS:
                if getattr(self, key) != usual:
                    raise Refusal(f"the dataset is held in memory by every worker: leave {path} out")
            return
        if self.parallel_calls is not None and examples.decode is None:
            raise Refusal("distrain decodes nothing of the dataset: leave dataset.parallel_calls out")
        if self.shard == "files":
            if not isinstance(examples.source, Files):
                raise Refusal("distrain does not know the files behind the dataset: choose dataset.shard: examples")
            if (files := len(examples.source.paths)) < workers:
                raise Refusal(
                    f"dataset.shard is files, but the dataset has {files} for {workers} workers: write one for each "
                    "worker at least, or choose dataset.shard: examples"
                )

    def records(
        self, stream: Stream, seed: int | None = None, worker: int = 0, workers: int = 1
    ) -> tuple[tf.data.Dataset, int]:
        """The records of a `worker`'s files, and how many of them to hold in order to draw from them: 1 where they come
        drawn. `seed` None: in the files' order.
        """
        if not isinstance(stream.source, Files):
            return stream.source(), stream.held
        files = stream.source
        mine = np.arange(worker, len(files.paths), workers)
        if seed is not None:
            mine = np.random.default_rng(seed).permutation(mine)
        sources = tf.data.Dataset.from_tensor_slices(tuple(column[mine] for column in (files.paths, *files.columns)))
        if files.read is None:
            return sources, len(mine) if seed is None else 1
        calls = self.parallel_reads or tf.data.AUTOTUNE
        # Said here, for a data worker does not get the options of the whole.
        order = {"num_parallel_calls": calls, "deterministic": self.ordered}
        return sources.interleave(plainly(files.read), FILES_AT_ONCE, IN_A_ROW, **order), stream.held

    def decoded(self, stream: Stream, records: tf.data.Dataset) -> tf.data.Dataset:
        if stream.decode is None:
            return records
        calls = self.parallel_calls or tf.data.AUTOTUNE
        return records.map(plainly(stream.decode), num_parallel_calls=calls, deterministic=self.deterministic)

    def examples(self, stream: Stream, worker: int = 0, workers: int = 1) -> tf.data.Dataset:
        """All examples of a `worker`'s files, in the files' order."""
        examples = self.decoded(stream, self.records(stream, None, worker, workers)[0])
        return examples.cache() if self.cache else examples

    def batched(self, stream: Stream, batches: tf.data.Dataset, size: int, *, cut: bool = True) -> tf.data.Dataset:
        """Batches of `size` examples, of batches of as many records. `cut`: leave out what does not fill a batch."""
        if stream.decode is None:
            return batches
        return self.decoded(stream, batches.unbatch()).batch(size, drop_remainder=cut)

    def ahead(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        options = tf.data.Options()
        options.deterministic = self.ordered
        return batches.prefetch(tf.data.AUTOTUNE if self.prefetch is None else self.prefetch).with_options(options)
