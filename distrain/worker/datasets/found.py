"""The files that a dataset's path means, which of its parts are kept for validation, and which file is at fault.

Does not know what the files hold.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distrain.worker.refusal import Refusal


def find(path: str, endings: tuple[str, ...], what: str) -> tuple[Path, ...]:
    """The files that `path` means, sorted: itself, or those in a folder whose names end as `endings` say, or those that
    match it as a pattern with `*`, `?` or `[`. `what` begins a complaint.

    Raises:
        Refusal: there are none.
    """
    start = Path(path).expanduser()
    where = "" if start.is_absolute() else f" in {Path.cwd()}"
    if start.is_dir():
        files = [file for file in start.iterdir() if _matches(file.name, endings) and file.is_file()]
        if not files:
            raise Refusal(f"{what}: {start} has no files whose names end in {' or '.join(endings)}")
        return tuple(sorted(files))
    if start.is_file():
        return (start,)
    if glob.has_magic(str(start)):
        files = [Path(name) for name in glob.glob(str(start), recursive=True) if Path(name).is_file()]
        if not files:
            raise Refusal(f"{what}: no file matches {start}{where}")
        return tuple(sorted(files))
    raise Refusal(f"{what}: {start} does not exist{where}: give an absolute path that every host has")


def _matches(name: str, endings: tuple[str, ...]) -> bool:
    """Whether `name` has one of `endings`, or one of them and a number after it: `train.tfrecord-00003-of-00010`."""
    return not name.startswith(".") and any(name.endswith(ending) or f"{ending}-" in name for ending in endings)


def kept(count: int, fraction: float) -> np.ndarray:
    """bool[count]: which of `count` things are for validation: always the same ones, `fraction` of them, at least one,
    drawn so that no regularity in their order shows in what is drawn.
    """
    # SplitMix64, so that the draw does not change with NumPy's version.
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mask = np.zeros(count, bool)
    mask[np.argsort(z ^ (z >> np.uint64(31)), kind="stable")[: max(1, round(count * fraction))]] = True
    return mask


def check_validation(name: str, split: float | None, path: str | None) -> None:
    """
    Raises:
        Refusal: both ways to have examples for validation, or a fraction that is none.
    """
    if split is not None and path is not None:
        raise Refusal(f"dataset {name} has both validation_split and validation_path under args: keep one of them")
    if split is not None and not (isinstance(split, int | float) and 0 < split < 1):
        raise Refusal(f"dataset {name}: args.validation_split is {split!r}: it is a number between 0 and 1")


def needs_path(name: str, path: str | None, what: str) -> str:
    """
    Raises:
        Refusal: there is no path.
    """
    if path is None:
        raise Refusal(f"dataset {name} needs dataset.path: {what}")
    return path


def whole_number(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def whole_numbers(value: object, count: int | None = None) -> bool:
    """Whether `value` is a list of `count` whole numbers of 1 or more; None: of any number of them."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and (count is None or len(value) == count)
        and all(map(whole_number, value))
    )
