"""What callbacks remember of a training, as plain data that can be saved and given back.

Owns which attributes are memory and how they become JSON and arrays. A callback's memory is what has become of its
attributes since training began: what its constructor was given is the job's, and may be another task's own. Attributes
that are neither plain values (None, booleans, numbers, texts), NumPy arrays, nor the containers of these that are known
here, are left alone; where that is a container that has become fuller or emptier, it is told.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

_KERASS = frozenset({"params", "_model"})
"""What Keras gives to every callback."""
_PLAIN = (type(None), bool, int, float, str)
_CONTAINERS = (list, tuple, set, frozenset, deque, dict)
_FACTORIES = {None: "", **{kind: kind.__name__ for kind in (bool, int, float, str, list, tuple, set, dict, deque)}}
"""What a defaultdict may make of a key that it lacks, and how that is called in a file."""


class CallbackStates:
    """The memory of `callbacks`, which have names that are the same in all tasks and attempts. `note` is told, once,
    of what looks like memory and is not saved.
    """

    def __init__(self, callbacks: Mapping[str, keras.callbacks.Callback], note: Callable[[str], None]) -> None:
        self._callbacks = callbacks
        self._note = note
        self._begun: dict[str, dict[str, Any]] = {name: {} for name in callbacks}
        self._sizes: dict[tuple[str, str], int] = {}
        """How full the containers that are not saved were when training began, by callback and attribute."""
        self._told: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Training begins: what callbacks have now, they have without being given it. Called after on_train_begin."""
        self._begun = {name: copy.deepcopy(_attributes(callback)) for name, callback in self._callbacks.items()}
        self._sizes = dict(self._left_out())

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
        self._tell_of_what_is_left_out()
        return found, arrays

    def restore(self, saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Give each callback its memory back. Called after `begin`."""
        for name, callback in self._callbacks.items():
            for attribute, value in saved.get(name, {}).items():
                setattr(callback, attribute, _decoded(value, arrays))

    def _left_out(self) -> Iterator[tuple[tuple[str, str], int]]:
        for name, callback in self._callbacks.items():
            for attribute, value in vars(callback).items():
                if attribute not in _KERASS and isinstance(value, _CONTAINERS) and not _is_plain(value):
                    yield (name, attribute), len(value)

    def _tell_of_what_is_left_out(self) -> None:
        for (name, attribute), size in self._left_out():
            if size != self._sizes.get((name, attribute), 0) and (name, attribute) not in self._told:
                self._told.add((name, attribute))
                of = type(self._callbacks[name]).__name__
                self._note(
                    f"checkpoints leave out {attribute} of the callback {of}, which holds more than numbers, texts and "
                    "arrays in Python's own containers: after a restart it begins anew"
                )


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    left_out = set(_KERASS)
    if hasattr(callback, "monitor_op"):
        # Keras negates it when it chooses `monitor_op`, a function, which it does again after a restart.
        left_out.add("min_delta")
    return {name: value for name, value in vars(callback).items() if name not in left_out and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple, set, frozenset, deque):
        return all(map(_is_plain, value))
    if type(value) is defaultdict and not any(value.default_factory is known for known in _FACTORIES):
        return False
    if type(value) in (dict, defaultdict):
        return all(map(_is_plain, value.keys())) and all(map(_is_plain, value.values()))
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    return type(value) in _PLAIN


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple | deque):
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
    if isinstance(value, set | frozenset):
        return {type(value).__name__: [_encoded(item, arrays) for item in value]}
    if isinstance(value, deque):
        return {"deque": [value.maxlen, *(_encoded(item, arrays) for item in value)]}
    if isinstance(value, dict):
        items = [[_encoded(key, arrays), _encoded(item, arrays)] for key, item in value.items()]
        if isinstance(value, defaultdict):
            return {"defaultdict": [_FACTORIES[value.default_factory], *items]}
        return {"dict": items}
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
        case "set":
            return {_decoded(item, arrays) for item in inner}
        case "frozenset":
            return frozenset(_decoded(item, arrays) for item in inner)
        case "deque":
            return deque((_decoded(item, arrays) for item in inner[1:]), inner[0])
        case "defaultdict":
            made = next(factory for factory, name in _FACTORIES.items() if name == inner[0])
            return defaultdict(made, {_decoded(key, arrays): _decoded(item, arrays) for key, item in inner[1:]})
        case "dict":
            return {_decoded(key, arrays): _decoded(item, arrays) for key, item in inner}
    raise ValueError(f"a callback's memory holds a {kind!r}, which is none of the kinds that are known")
