"""Reads an `.npz` file of training and validation arrays. Nothing in the file is executed (no pickles)."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distrain.worker.datasets.examples import Dataset, InMemory, Pixels, in_memory, of_arrays
from distrain.worker.refusal import Refusal

VALIDATION_SPLITS = ("test", "val")


def load(path: str | None) -> Dataset:
    """`x_train` and `y_train`, and for validation `x_test` and `y_test`, or else `x_val` and `y_val`, if there are any.

    An x of uint8 is pixels: scaled to [0, 1], and given a channel axis if its examples have two axes. Any other x is
    left as it is, save that float64 becomes float32. Beside them `w_train`, `w_test` and `w_val` are what each example
    counts, if they are there. The number of classes is told by integer labels (the largest plus
    one) or one-hot ones.

    Raises:
        Refusal: no such file, not an npz, an array is missing, or arrays do not fit each other.
    """
    if path is None:
        raise Refusal("dataset npz needs dataset.path: the .npz file that holds x_train and y_train")
    file = Path(path).expanduser()
    arrays = _arrays(file)
    has = f"{file} has {', '.join(sorted(arrays)) or 'no arrays'}"
    for name in ("x_train", "y_train"):
        if name not in arrays:
            raise Refusal(f"{has}: {name} is missing")
    train = _split(arrays, "train", file)
    validation = None
    for split in VALIDATION_SPLITS:
        x_name, y_name, w_name = _names(split)
        if (x_name in arrays) != (y_name in arrays):
            raise Refusal(f"{has}: {x_name} and {y_name} come together or not at all")
        if w_name in arrays and x_name not in arrays:
            raise Refusal(f"{has}: {w_name} are the weights of {x_name}, which is missing")
        if x_name in arrays and validation is None:
            validation = _split(arrays, split, file)
    return of_arrays(train, validation, f"{file}:")


def _names(split: str) -> tuple[str, str, str]:
    return f"x_{split}", f"y_{split}", f"w_{split}"


def _split(arrays: Mapping[str, np.ndarray], split: str, file: Path) -> InMemory:
    x, y, w = (arrays.get(name) for name in _names(split))
    return in_memory(x, y, f"{file}: {split}", Pixels(255) if x.dtype == np.uint8 and x.ndim > 1 else None, w)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    wanted = {name for split in ("train", *VALIDATION_SPLITS) for name in _names(split)}
    try:
        with file.open("rb") as opened:
            if not opened.read(1):
                raise Refusal(f"{file} is empty: make it with numpy.savez(file, x_train=…, y_train=…)")
            if not zipfile.is_zipfile(opened):
                raise Refusal(f"{file} is not an .npz file: make one with numpy.savez(file, x_train=…, y_train=…)")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files if name in wanted}
    except FileNotFoundError as error:
        where = "" if file.is_absolute() else f" in {Path.cwd()}"
        raise Refusal(f"{file} does not exist{where}: give an absolute path that every host has") from error
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise Refusal(f"{file} holds Python objects, which are not read: save arrays of numbers") from error
        raise Refusal(f"{file} is damaged: {error}") from error
    except (
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise Refusal(f"{file} is damaged: {error or type(error).__name__}") from error
