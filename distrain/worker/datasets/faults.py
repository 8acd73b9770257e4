"""Which file it is that cannot be read. TensorFlow says what is wrong with a record, but not where that is."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from distrain.worker.datasets.examples import Dataset, Files, Stream
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

_READING = "IteratorGetNext"
"""The operation that hands a batch over. Any other that fails is the model's."""
_NODE = re.compile(r"\s*\[\[?\{?\{node.*|\s*\[Op:.*", re.DOTALL)


@contextlib.contextmanager
def named(dataset: Dataset, events: Events) -> Iterator[None]:
    """Within, an error of TensorFlow's in reading examples has the files of `dataset` read once more, until the one
    that is at fault is found.

    Raises:
        Refusal: it is found.
    """
    import tensorflow as tf

    errors = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnknownError)
    try:
        yield
    except errors as error:
        if _READING not in str(error):
            raise
        for stream in (dataset.train, dataset.validation):
            if isinstance(stream, Stream) and isinstance(stream.source, Files):
                events.phase("looking for a damaged file")
                if (sentence := _fault(stream, stream.source, errors)) is not None:
                    raise Refusal(sentence) from error
        raise


def _fault(stream: Stream, files: Files, errors: tuple[type[Exception], ...]) -> str | None:
    import tensorflow as tf

    for path, records in _of_each(files):
        examples = records.map(stream.decode, num_parallel_calls=tf.data.AUTOTUNE)
        number = 0
        try:
            for _ in examples:
                number += 1
        except errors as error:
            place = path(number)
            where = f", record {number + 1}" if files.read is not None else ""
            reason = _NODE.sub("", getattr(error, "message", str(error)).splitlines()[0]).strip(" .")
            return f"{place}{where} is damaged, or not what the job says: {reason}"
    return None


def _of_each(files: Files) -> Iterator[tuple[Any, Any]]:
    """Records of one file after the other, or all at once where each file is one, with what names the file by the
    number of the record."""
    import tensorflow as tf

    columns = (files.paths, *files.columns)
    if files.read is None:
        yield lambda number: os.fsdecode(files.paths[number]), tf.data.Dataset.from_tensor_slices(columns)
        return
    for place in range(len(files.paths)):
        yield lambda _, place=place: os.fsdecode(files.paths[place]), files.read(*(column[place] for column in columns))
