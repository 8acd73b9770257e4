"""What callbacks remember of a training, as plain data that can be saved and given back.

Owns which attributes are memory and how they become JSON and arrays. A callback's memory is what has become of its
attributes since training began: what its constructor was given is the job's, and may be another task's own. Attributes
that are neither plain values (None, booleans, numbers, texts), NumPy arrays, nor lists, tuples and dictionaries of
these, are left alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_KERASS = frozenset({"params", "_model"})
"""What Keras gives to every callback."""
_PLAIN = (type(None), bool, int, float, str)


class CallbackStates:
    """The memory of `callbacks`, which have names that are the same in all tasks and attempts."""

    def __init__(self, callbacks: Mapping[str, keras.callbacks.Callback]) -> None:
        self._callbacks = callbacks
        self._begun: dict[str, dict[str, Any]] = {name: {} for name in callbacks}

    def begin(self) -> None:
        """Training begins: what callbacks have now, they have without being given it. Called after on_train_begin."""
        self._begun = {name: copy.deepcopy(_attributes(callback)) for name, callback in self._callbacks.items()}

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The memory of each callback that has some, as JSON, and copies of the arrays that it refers to."""
        found: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, callback in self._callbacks.items():
            begun = self._begun[name]
            memory = {
                attribute: _encoded(value, arrays)
                for attribute, value in _attributes(callback).items()
                if attribute not in begun or not _same(value, begun[attribute])
            }
            if memory:
                found[name] = memory
        return found, arrays

    def restore(self, saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Give each callback its memory back. Called after `begin`."""
        for name, callback in self._callbacks.items():
            for attribute, value in saved.get(name, {}).items():
                setattr(callback, attribute, _decoded(value, arrays))


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    left_out = set(_KERASS)
    if hasattr(callback, "monitor_op"):
        # Keras negates it when it chooses `monitor_op`, a function, which it does again after a restart.
        left_out.add("min_delta")
    return {name: value for name, value in vars(callback).items() if name not in left_out and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value.keys())) and all(map(_is_plain, value.values()))
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    return type(value) in _PLAIN


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return _same([*one.items()], [*other.items()])
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def _encoded(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        name = f"callbacks/{len(arrays)}"
        arrays[name] = np.array(value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_encoded(item, arrays) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_encoded(key, arrays), _encoded(item, arrays)] for key, item in value.items()]}
    return value


def _decoded(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "array":
            return arrays[inner].copy()
        case "scalar":
            return arrays[inner][()]
        case "tuple":
            return tuple(_decoded(item, arrays) for item in inner)
        case "dict":
            return {_decoded(key, arrays): _decoded(item, arrays) for key, item in inner}
    raise ValueError(f"a callback's memory holds a {kind!r}, which is none of the kinds that are known")
