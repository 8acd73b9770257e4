"""Which part of which array each device of a mesh holds. Pure: knows no TensorFlow, and no model but by its variables'
paths and shapes.

A layout says for each axis of a variable which dimension of the mesh it is divided over, None where it is whole.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distrain.worker.refusal import Refusal

BATCH, MODEL = "batch", "model"
LEAST_ELEMENTS = 1 << 12
"""What `auto` divides has so many elements at least: of less, the exchange costs more than the work."""

Layout = tuple[str | None, ...]


@dataclass(frozen=True)
class Weight:
    """A variable of a model. Those of one `group` are divided together or not at all, each along its `axis`; None: it
    stays whole, unless the job says otherwise.
    """

    path: str
    shape: tuple[int, ...]
    group: str = ""
    axis: int | None = None


@dataclass(frozen=True)
class Grid:
    """A mesh of `batch` x `model` devices, of which the workers have `devices` each, row by row. This one is `worker`.

    Raises:
        Refusal: a row's devices are not whole workers, nor a worker's devices whole rows.
    """

    batch: int
    model: int
    devices: int = 1
    worker: int = 0

    def __post_init__(self) -> None:
        if self.devices % self.model and self.model % self.devices:
            raise Refusal(
                f"strategy.mesh has {self.model} devices in the dimension model, and a worker has {self.devices}: "
                "let one be a multiple of the other (cluster.devices_per_worker)"
            )

    @property
    def workers(self) -> int:
        return self.batch * self.model // self.devices

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column of each of this worker's devices."""
        first = self.worker * self.devices
        return tuple(divmod(number, self.model) for number in range(first, first + self.devices))

    @property
    def rows(self) -> range:
        """Which parts of the batch this worker's devices see."""
        return range(self.places[0][0], self.places[-1][0] + 1)

    def size(self, dimension: str) -> int:
        return {BATCH: self.batch, MODEL: self.model}[dimension]

    def held(self, weight: Weight, layout: Layout) -> tuple[int, int]:
        """How many elements of `weight` each device has, and how many there are."""
        elements = math.prod(weight.shape)
        return elements // math.prod(self.size(axis) for axis in layout if axis is not None), elements

    def cut(self, shape: Sequence[int], layout: Layout, place: tuple[int, int]) -> tuple[slice, ...]:
        """What of an array the device at `place` holds."""
        at = {BATCH: place[0], MODEL: place[1]}
        cuts = []
        for length, dimension in zip(shape, layout, strict=True):
            size = length if dimension is None else length // self.size(dimension)
            start = 0 if dimension is None else at[dimension] * size
            cuts.append(slice(start, start + size))
        return tuple(cuts)


def layouts(weights: Sequence[Weight], given: Mapping[str, Sequence[str | None]] | None, grid: Grid) -> list[Layout]:
    """The layout of each of `weights`: `given` by regular expressions of which one is found in its path, where what
    none is found in stays whole; None: distrain chooses.

    Raises:
        Refusal: an expression is none, or found in no path; a path has two; or a layout does not fit its variable.
    """
    if given is None:
        return _auto(weights, grid)
    patterns = {text: _compiled(text) for text in given}
    found: list[Layout] = []
    for weight in weights:
        fitting = [text for text, pattern in patterns.items() if pattern.search(weight.path)]
        if len(fitting) > 1:
            raise Refusal(f"strategy.layout has two entries for {weight.path}, {fitting[0]!r} and {fitting[1]!r}")
        layout: Layout = tuple(given[fitting[0]]) if fitting else (None,) * len(weight.shape)
        if fitting:
            _check(weight, layout, f"strategy.layout gives {fitting[0]!r} {_spell(layout)}", grid)
        found.append(layout)
    for text, pattern in patterns.items():
        if not any(pattern.search(weight.path) for weight in weights):
            raise Refusal(f"strategy.layout: {text!r} is found in no variable's path{_nearest(text, weights)}")
    return found


def of_slot(name: str, shape: tuple[int, ...], weights: Sequence[Weight], found: Sequence[Layout]) -> Layout:
    """The layout of an optimizer's variable, which Keras names after the weight that it belongs to: that weight's,
    if it has its shape.
    """
    of = [
        (len(weight.path), layout)
        for weight, layout in zip(weights, found, strict=True)
        if weight.shape == shape and name.startswith(weight.path.replace("/", "_") + "_")
    ]
    return max(of, default=(0, (None,) * len(shape)), key=lambda pair: pair[0])[1]


def _auto(weights: Sequence[Weight], grid: Grid) -> list[Layout]:
    by_group: dict[str, list[Weight]] = {}
    for weight in weights:
        if weight.axis is not None:
            by_group.setdefault(weight.group, []).append(weight)
    divided = {
        group
        for group, members in by_group.items()
        if all(weight.shape[weight.axis or 0] % grid.model == 0 for weight in members)
        and max(math.prod(weight.shape) for weight in members) >= LEAST_ELEMENTS
    }
    return [
        tuple(
            MODEL if weight.axis == axis and weight.group in divided and grid.model > 1 else None
            for axis in range(len(weight.shape))
        )
        for weight in weights
    ]


def _check(weight: Weight, layout: Layout, what: str, grid: Grid) -> None:
    if len(layout) != len(weight.shape):
        raise Refusal(
            f"{what}, but {weight.path} has {len(weight.shape)} axes ({_spell(weight.shape)}): name a dimension or "
            "null for each"
        )
    used = [dimension for dimension in layout if dimension is not None]
    if unknown := [dimension for dimension in used if dimension not in (BATCH, MODEL)]:
        raise Refusal(f"{what}, but the mesh has no dimension {unknown[0]!r}: there are batch and model")
    if len(used) != len(set(used)):
        raise Refusal(f"{what}: a dimension of the mesh can divide only one axis")
    for axis, (length, dimension) in enumerate(zip(weight.shape, layout, strict=True)):
        if dimension is not None and length % grid.size(dimension):
            raise Refusal(
                f"{what}, but axis {axis} of {weight.path} ({_spell(weight.shape)}) has {length} elements, which "
                f"{grid.size(dimension)} devices cannot share equally"
            )


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise Refusal(f"strategy.layout: {text!r} is no regular expression ({error})") from None


def _nearest(text: str, weights: Sequence[Weight]) -> str:
    plain = re.sub(r"[^\w/]+", "", text)
    paths = dict.fromkeys(weight.path for weight in weights)
    nearest = sorted(paths, key=lambda path: -difflib.SequenceMatcher(None, plain, path).ratio())
    return f": the nearest are {', '.join(itertools.islice(nearest, 3))}" if nearest else ""


def _spell(values: Sequence[object]) -> str:
    return f"[{', '.join('null' if value is None else str(value) for value in values)}]"
