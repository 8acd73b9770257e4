"""What a dataset is, as values: examples in memory or as a stream, and the facts that a model is built from.

Does not know where examples come from (`datasets`) nor in what order they are taken (the training loop).
Runs no TensorFlow op until a `prepare` or a `make` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain.worker.refusal import Refusal

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, eq=False)
class InMemory:
    """`size` examples in NumPy arrays; `x` and `y` are each an array, or a tuple or dict of arrays, examples first.

    `prepare(x, y)` turns a batch, inside the graph, into what the model is fed; None: it is fed as it is. `w`: what
    each example counts, float32[size]; None: all the same.
    """

    x: Any
    y: Any
    size: int
    prepare: Callable[[Any, Any], tuple[Any, Any]] | None = None
    w: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Files:
    """Files that hold records, and can be shared out: `paths`, and `columns` of what else is known of each.

    `read(path, *columns)` of one file gives its records; None: path and columns are a record themselves.
    """

    paths: np.ndarray
    columns: tuple[np.ndarray, ...] = ()
    read: Callable[..., tf.data.Dataset] | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """Unbatched examples, `(x, y)` or `(x, y, w)` with what each counts, read one after the other.

    `source` holds records, of which `decode` makes examples, so that whoever takes a part decodes no more than that;
    without a `decode` they are examples already. A `source()` starts at the first record each time that it is iterated
    over. `size` None: not known ahead. `held`: how many records a worker may keep, to draw from them.
    """

    source: Callable[[], tf.data.Dataset] | Files
    size: int | None
    decode: Callable[..., tuple[Any, ...]] | None = None
    held: int = 20_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """`input_shape` is that of one prepared example, None where `x` is not a single array of known rank;
    `classes` is None where the labels do not tell."""

    train: InMemory | Stream
    validation: InMemory | Stream | None
    input_shape: tuple[int | None, ...] | None
    classes: int | None


@dataclass(frozen=True)
class Pixels:
    """A `prepare`: uint8 images of 0..`largest` become float32 of 0..1, with a channel axis where they have none."""

    largest: int

    def __call__(self, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        import tensorflow as tf

        x = tf.cast(x, tf.float32) / self.largest
        return (x[..., tf.newaxis] if x.shape.rank == 3 else x), y

    def shape(self, example: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one example after preparation."""
        return (*example, 1) if len(example) == 2 else example


def in_memory(x: Any, y: Any, what: str, prepare: Pixels | None = None, w: np.ndarray | None = None) -> InMemory:
    """Check that `x`, `y` and `w` hold the same number of examples of numbers. `what` begins the complaint.

    float64 becomes float32, as it does in Keras's own `fit`.

    Raises:
        Refusal: no examples, different numbers of them, or values that are not numbers.
    """
    x, y = _numbers(x, f"{what} x"), _numbers(y, f"{what} y")
    counts = {len(leaf) for leaf in (*leaves(x), *leaves(y))}
    if len(counts) != 1:
        raise Refusal(f"{what} examples do not match: {describe(x)} in x but {describe(y)} in y")
    size = counts.pop()
    if size == 0:
        raise Refusal(f"{what} has no examples")
    return InMemory(x, y, size, prepare, None if w is None else _weights(w, size, what))


def _weights(w: np.ndarray, size: int, what: str) -> np.ndarray:
    if w.dtype.kind not in "biuf" or w.shape != (size,):
        raise Refusal(f"{what} weights are {describe(w)}: one number for each of the {size} examples is needed")
    if not np.all(np.isfinite(w)) or np.any(w < 0):
        raise Refusal(f"{what} weights are not all finite and 0 or more")
    return w.astype(np.float32)


def _numbers(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_numbers(item, f"{what}[{index}]") for index, item in enumerate(value))
    if value.dtype.kind not in "biuf":
        raise Refusal(f"{what} holds {value.dtype} values: numbers are needed")
    if value.ndim == 0:
        raise Refusal(f"{what} is a single value: the first axis must count the examples")
    return value.astype(np.float32) if value.dtype == np.float64 else value


def leaves(value: Any) -> list[Any]:
    """The arrays in an array, or a tuple or dict of them."""
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def of_arrays(train: InMemory, validation: InMemory | None, what: str) -> Dataset:
    """The dataset of these examples, its facts taken from the arrays themselves. `what` begins a complaint.

    Raises:
        Refusal: validation examples have another shape or type than those for training.
    """
    labels = [train.y]
    if validation is not None:
        labels.append(validation.y)
        if _kinds(train.x) != _kinds(validation.x):
            raise Refusal(
                f"{what} examples for training and validation differ in shape or type: x is {describe(train.x)} and "
                f"{describe(validation.x)}"
            )
    shape = None
    if isinstance(train.x, np.ndarray):
        shape = train.x.shape[1:]
        if isinstance(train.prepare, Pixels):
            shape = train.prepare.shape(shape)
    return Dataset(train, validation, shape, _classes(labels))


def _kinds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _kinds(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_kinds, value))
    return value.shape[1:], value.dtype


def _classes(labels: list[Any]) -> int | None:
    """How many classes `labels` tell of: one more than the largest of whole numbers from 0, or one-hot's width."""
    if not all(isinstance(y, np.ndarray) and y.dtype.kind in "biuf" for y in labels):
        return None
    if all(y.dtype.kind in "biu" and y.shape[1:] in ((), (1,)) for y in labels):
        return int(max(y.max() for y in labels)) + 1 if min(y.min() for y in labels) >= 0 else None
    widths = {y.shape[1:] for y in labels}
    if len(widths) == 1 and len(width := widths.pop()) == 1 and width[0] > 1 and all(map(_one_hot, labels)):
        return int(width[0])
    return None


def _one_hot(y: Any) -> bool:
    return bool(np.all((y == 0) | (y == 1)) and np.all(y.sum(axis=1) == 1))


def describe(value: Any) -> str:
    """What `value` is, in few words: shape and type of arrays, the parts of tuples and dicts, else its class."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple | list):
        parts = ", ".join(describe(item) for item in value[:4]) + (", …" if len(value) > 4 else "")
        return f"({parts})" if isinstance(value, tuple) else f"[{parts}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]} {kind.__name__}"
