"""A dataset as a job names it, and the arguments of those that distrain reads: columns, features, sizes, splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain.job.file.kinds import UNUSABLE, Findings, Kind, ListOf, Section, listed, quoted, shown, suggestion
from distrain.job.file.named import KnownOrFunction, free_value
from distrain.job.file.tree import Items, Node, Scalar, Table
from distrain.job.file.values import Boolean, Choice, Integer, Text
from distrain.job.spec import DATASETS, TFDS

_TFDS_NAME = re.compile(rf"{TFDS}[a-z][a-z0-9_]*(/[\w.-]+)?(:[0-9*.]+)?", re.ASCII)


class _Single:
    """A kind without short forms."""

    def expand(self, node: Node) -> Node:
        return node


@dataclass(frozen=True)
class DatasetName(_Single):
    words: str = KnownOrFunction(DATASETS, (*DATASETS, f"{TFDS}<name>")).words

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        text = node.text if isinstance(node, Scalar) else ""
        if not text.startswith(TFDS):
            return KnownOrFunction(DATASETS, (*DATASETS, f"{TFDS}<name>")).read(node, path, findings)
        if _TFDS_NAME.fullmatch(text):
            return text
        problem = f"{path} is {shown(node)}, which is no name of tensorflow_datasets's"
        return findings.add(node.place, path, problem, f"write for example {TFDS}mnist or {TFDS}glue/sst2:2.0.0")


@dataclass(frozen=True)
class _Fraction(_Single):
    words: str = "number above 0 and below 1"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
            return value
        return findings.add(node.place, path, f"{path} is {shown(node)}", "give a number above 0 and below 1")


@dataclass(frozen=True)
class _Column(_Single):
    """Its name, or its number, counted from 0."""

    words: str = "text or whole number"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
            return Integer(0).read(node, path, findings)
        return Text().read(node, path, findings)


@dataclass(frozen=True)
class _Sizes(_Single):
    """Whole numbers, as many as there are `names`; with none, any number of them."""

    names: tuple[str, ...] = ()
    words: str = "list of whole numbers, 1 or more"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Items) or (self.names and len(node.nodes) != len(self.names)):
            given = f"a list of {len(node.nodes)}" if isinstance(node, Items) else shown(node)
            remedy = (
                f"write [{', '.join(self.names)}]" if self.names else "give a list such as [28, 28], [] for one number"
            )
            return findings.add(node.place, path, f"{path} is {given}", remedy)
        sizes = [Integer(1).read(item, f"{path}.{index}", findings) for index, item in enumerate(node.nodes)]
        return UNUSABLE if UNUSABLE in sizes else tuple(sizes)


@dataclass(frozen=True)
class _Channels(_Single):
    words: str = "1 or 3"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        if value in (1, 3) and not isinstance(value, bool):
            return int(value)
        return findings.add(node.place, path, f"{path} is {shown(node)}", "give 1 for grey or 3 for colour")


_FEATURE: Mapping[str, Kind] = {
    "dtype": Choice(("float32", "int64", "uint8")),
    "image": Choice(("jpeg", "png"), foreign={"jpg": 'did you mean "jpeg"?'}),
    "shape": _Sizes(),
    "resize": _Sizes(("height", "width")),
}


@dataclass(frozen=True)
class _Features(_Single):
    """What stands in a record, by name: numbers of a dtype and shape, or an encoded image."""

    words: str = "mapping of names to `{dtype, shape}` or `{image, shape}`"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        example = "give a mapping such as {image: {image: png, shape: [28, 28, 1]}, label: {dtype: int64}}"
        if not isinstance(node, Table) or not node.entries:
            given = "an empty mapping" if isinstance(node, Table) else shown(node)
            return findings.add(node.place, path, f"{path} is {given}", example)
        features = {name: self._feature(entry.node, f"{path}.{name}", findings) for name, entry in node.entries.items()}
        return UNUSABLE if UNUSABLE in features.values() else features

    def _feature(self, node: Node, path: str, findings: Findings) -> Any:
        if not isinstance(node, Table):
            remedy = "give {dtype: float32, shape: [4]}, or {image: png, shape: [28, 28, 1]}"
            return findings.add(node.place, path, f"{path} is {shown(node)}", remedy)
        before = len(findings.complaints)
        feature = _read(_FEATURE, node, path, path, findings)
        if len(findings.complaints) > before:
            return UNUSABLE
        if ("dtype" in feature) == ("image" in feature):
            how = "both dtype and image" if "dtype" in feature else "neither dtype nor image"
            return findings.add(
                node.place, path, f"{path} has {how}", "give one: dtype for numbers, image for a picture"
            )
        if "image" not in feature and "resize" in feature:
            return findings.add(node.place, path, f"{path} has resize, and is no image", "give its shape")
        if "image" in feature and not feature.keys() & {"shape", "resize"}:
            remedy = "give shape: [height, width, channels], or resize: [height, width]"
            return findings.add(node.place, path, f"{path} is an image of unknown size", remedy)
        shape = feature.get("shape", ())
        if "image" in feature and shape and (len(shape) != 3 or shape[2] not in (1, 3)):
            remedy = "write [height, width, channels], with 1 or 3 channels"
            return findings.add(node.place, path, f"{path}.shape is {list(shape)}, which no image has", remedy)
        return feature


_VALIDATION: Mapping[str, Kind] = {"validation_split": _Fraction(), "validation_path": Text()}

BUILT_IN_DATASETS: Mapping[str, Mapping[str, Kind]] = {
    "csv": {
        "label": _Column(),
        "features": ListOf(_Column()),
        "weight": _Column(),
        "header": Boolean(),
        **_VALIDATION,
    },
    "tfrecord": {
        "features": _Features(),
        "label": Text(),
        "weight": Text(),
        "compression": Choice(("none", "gzip", "zlib")),
        "classes": Integer(1),
        **_VALIDATION,
    },
    "image_folder": {"image_size": _Sizes(("height", "width")), "channels": _Channels(), **_VALIDATION},
    TFDS: {
        "split": Text(),
        "validation": Text(),
        "image_size": _Sizes(("height", "width")),
        "download": Boolean(),
    },
}
"""The datasets that take arguments, and the kind of each of those."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "csv": ("label",),
    "tfrecord": ("features", "label"),
    "image_folder": ("image_size",),
}


def _read(kinds: Mapping[str, Kind], node: Table, path: str, noun: str, findings: Findings) -> dict[str, Any]:
    """The value of each argument that is given and right; null stands for none."""
    values: dict[str, Any] = {}
    for name, entry in node.entries.items():
        if name not in kinds:
            remedy = suggestion(name, kinds, f"its arguments are {listed(kinds)}")
            findings.add(entry.place, f"{path}.{name}", f"{noun} has no argument {quoted(name)}", remedy)
        elif not (isinstance(entry.node, Scalar) and entry.node.plain and entry.node.value is None):
            kind = kinds[name]
            value = kind.read(kind.expand(entry.node), f"{path}.{name}", findings)
            if value is not UNUSABLE:
                values[name] = value
    return values


@dataclass(frozen=True)
class _Arguments(_Single):
    words: str = "mapping"

    def read(self, node: Node, path: str, findings: Findings) -> Any:
        if isinstance(node, Scalar) and node.value is None:
            return {}
        if not isinstance(node, Table):
            return findings.add(node.place, path, f"{path} is {shown(node)}", "give a mapping of arguments")
        return free_value(node, path, findings)


ARGUMENTS = _Arguments()
"""Those of a function of the user's: any."""


@dataclass(frozen=True)
class Dataset(Section):
    """What its arguments may be follows from its name."""

    def values(self, node: Node, path: str, findings: Findings) -> dict[str, Any]:
        values = super().values(node, path, findings)
        name = str(values.get("name"))
        known = TFDS if name.startswith(TFDS) else name
        if known not in BUILT_IN_DATASETS or not isinstance(node, Table) or f"{path}.args" in findings.paths:
            return values
        entry = node.entries.get("args")
        given = entry.node if entry is not None and isinstance(entry.node, Table) else Table(node.place)
        before = len(findings.complaints)
        args = _read(BUILT_IN_DATASETS[known], given, f"{path}.args", f"dataset {name}", findings)
        missing = [each for each in _NEEDED.get(known, ()) if each not in args]
        if missing and len(findings.complaints) == before:
            example = ", ".join(f"{each}: ..." for each in missing)
            problem = f"dataset {name} needs {listed(missing)}"
            findings.add(given.place, f"{path}.args", problem, f"write args: {{{example}}}")
        return {**values, "args": args}
