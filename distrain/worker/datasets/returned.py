"""What a user's dataset function returned, made into a Dataset.

Accepted are unbatched examples, for training alone or for training and validation:

- a `tf.data.Dataset` of `(x, y)` examples, or a pair `(train, validation)` of them;
- NumPy arrays `(x, y)`, or a pair of pairs `((x, y), (x_val, y_val))`, the first axis counting the examples;
- a dict with `train`, and if wished `validation` (each as above) and `classes` (a number).

In place of `(x, y)` there may be `(x, y, w)` everywhere, `w` being what each example counts. `x` and `y` may themselves
be tuples or dicts of arrays. Where both are tuples, only the dict form says so without doubt: a pair of pairs always
means training and validation. Arrays are left as they are, save that float64 becomes float32.

A dataset that was batched already cannot be told from one whose examples have one axis more. Refused is what is plain:
every part of an example begins with an axis of unknown length, or x has three or more axes and begins with the same
length as the one axis of y.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distrain.worker.datasets.examples import Dataset, InMemory, Stream, describe, in_memory, leaves, of_arrays
from distrain.worker.refusal import Refusal

_EXPECTED = (
    "expected are unbatched examples: a tf.data.Dataset of (x, y) or (x, y, weight), or NumPy arrays of such, or a "
    "pair (train, validation) of either, or a dict with train and validation"
)
_KEYS = ("train", "validation", "classes")


def dataset_from(function: Callable[[], Any], name: str) -> Dataset:
    """Call `function`, which the job calls `name`, and make what it returns a Dataset.

    It is called again when a stream is wanted inside a graph: a dataset built outside cannot enter a graph that runs on
    another machine.

    Raises:
        Refusal: it returned something else.
    """
    value = function()
    parts = _parts(value, name)
    train, validation = (
        None
        if parts[key] is None
        else _examples(parts[key], f"{name}: {key}", lambda key=key: _parts(function(), name)[key])
        for key in ("train", "validation")
    )
    if train is None:
        raise Refusal(f"{name} returned no training examples: {describe(value)}; {_EXPECTED}")
    classes = parts["classes"]
    if isinstance(train, InMemory) and (validation is None or isinstance(validation, InMemory)):
        known = of_arrays(train, validation, f"{name}:")
        return known if classes is None else Dataset(train, validation, known.input_shape, classes)
    if isinstance(train, InMemory):
        known = of_arrays(train, None, f"{name}:")
        return Dataset(train, validation, known.input_shape, classes or known.classes)
    return Dataset(train, validation, _stream_shape(parts["train"]), classes)


def _parts(value: Any, name: str) -> dict[str, Any]:
    """`value` taken apart into train, validation and classes, the last two None where it has none."""
    if isinstance(value, Mapping):
        strange = [key for key in value if key not in _KEYS]
        if strange or "train" not in value:
            raise Refusal(f"{name} returned a dict with {', '.join(map(str, value)) or 'no keys'}; {_EXPECTED}")
        classes = value.get("classes")
        if classes is not None and (not isinstance(classes, int | np.integer) or classes < 1):
            raise Refusal(f"{name} returned {classes!r} as classes: it is the number of classes")
        return {
            "train": value["train"],
            "validation": value.get("validation"),
            "classes": None if classes is None else int(classes),
        }
    if isinstance(value, tuple | list) and len(value) == 2 and not _is_array(value[1]):
        train, validation = value
        if _is_stream(train) or isinstance(train, tuple | list):
            return {"train": train, "validation": validation, "classes": None}
    return {"train": value, "validation": None, "classes": None}


def _examples(part: Any, what: str, again: Callable[[], Any]) -> InMemory | Stream:
    if _is_stream(part):
        return _stream(part, what, again)
    if isinstance(part, tuple | list) and len(part) in (2, 3) and all(map(_holds_arrays, part)):
        x, y, *weights = map(_to_numpy, part)
        if not weights or isinstance(weights[0], np.ndarray):
            return in_memory(x, y, what, w=weights[0] if weights else None)
    raise Refusal(f"{what} examples are {describe(part)}; {_EXPECTED}")


def _stream(dataset: Any, what: str, again: Callable[[], Any]) -> Stream:
    import tensorflow as tf

    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise Refusal(f"{what} is a tf.data.Dataset of {_spell(spec)}: each example must be (x, y), or (x, y, weight)")
    if len(spec) == 3 and getattr(spec[2], "shape", None) not in (tf.TensorShape([]), tf.TensorShape(None)):
        raise Refusal(f"{what} is a tf.data.Dataset of {_spell(spec)}: the weight of an example must be one number")
    shapes = [getattr(part, "shape", tf.TensorShape(None)) for part in tf.nest.flatten(spec)]
    labels = [getattr(part, "shape", tf.TensorShape(None)) for part in tf.nest.flatten(spec[1])]
    unknown = all(shape.rank and shape[0] is None for shape in shapes)
    alike = (
        len(shapes) == len(spec)
        and all(shape.rank for shape in shapes)
        and shapes[0].rank >= 3
        and labels[0].rank == 1
        and shapes[0][0] == labels[0][0]
    )
    if unknown or alike:
        raise Refusal(
            f"{what} is a tf.data.Dataset of {_spell(spec)}, which looks batched: return single examples (leave out "
            ".batch, or end with .unbatch()), for distrain makes the batches"
        )
    size = int(dataset.cardinality())
    if size == 0:
        raise Refusal(f"{what} has no examples")

    def make() -> Any:
        return dataset if tf.executing_eagerly() else again()

    return Stream(make, size if size > 0 else None)


def _stream_shape(dataset: Any) -> tuple[int | None, ...] | None:
    shape = getattr(dataset.element_spec[0], "shape", None)
    return None if shape is None or shape.rank is None else tuple(shape)


def _spell(spec: Any) -> str:
    if isinstance(spec, tuple):
        return f"({', '.join(map(_spell, spec))})"
    if isinstance(spec, Mapping):
        return "{" + ", ".join(f"{key!r}: {_spell(item)}" for key, item in spec.items()) + "}"
    shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
    if shape is None or dtype is None:
        return type(spec).__name__
    return f"{dtype.name}{'[…]' if shape.rank is None else list(shape)}"


def _is_stream(value: Any) -> bool:
    # No TensorFlow dataset exists where TensorFlow was not imported, and arrays alone are no reason to import it.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(value, tensorflow.data.Dataset)


def _is_array(value: Any) -> bool:
    """NumPy's own, and what turns into it: tensors, data frames."""
    return hasattr(value, "__array__") and hasattr(value, "shape") and not isinstance(value, type)


def _holds_arrays(value: Any) -> bool:
    if not isinstance(value, tuple | Mapping):
        return _is_array(value)
    parts = leaves(value)
    return bool(parts) and all(map(_is_array, parts))


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_numpy(item) for key, item in value.items()}
    return tuple(map(_to_numpy, value)) if isinstance(value, tuple) else np.asarray(value)
