"""The dataset `image_folder`: a folder for each class, with its images. TensorFlow reads and decodes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distrain.worker.datasets.examples import Dataset, Files, Stream
from distrain.worker.datasets.found import check_validation, kept, needs_path, whole_numbers
from distrain.worker.refusal import Refusal

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
SPLITS = ("train", "validation")


def load(
    path: str | None,
    image_size: Sequence[int],
    channels: int = 3,
    validation_split: float | None = None,
    validation_path: str | None = None,
) -> Dataset:
    """Images as float32[*image_size, channels] of 0..1, and the place of their class among the sorted names as int32.

    `path` has the classes' folders, or two folders `train` and `validation` that have them. Of a GIF the first frame is
    taken. `validation_split`: the part of each class's images that is kept for validation.

    Raises:
        Refusal: there is no such folder, a class has no images, or an image is empty.
    """
    folder = Path(
        needs_path("image_folder", path, "the folder that has a folder of images for each class")
    ).expanduser()
    check_validation("image_folder", validation_split, validation_path)
    if not whole_numbers(image_size, 2):
        raise Refusal(f"dataset image_folder: args.image_size is {image_size!r}: write [height, width]")
    if channels not in (1, 3):
        raise Refusal(f"dataset image_folder: args.channels is {channels!r}: it is 1 or 3")
    other = None if validation_path is None else Path(validation_path).expanduser()
    if sorted(_folders(folder)) == sorted(SPLITS):
        if validation_split is not None or other is not None:
            raise Refusal(
                f"{folder} has a folder for validation: leave args.validation_split and args.validation_path out"
            )
        folder, other = folder / "train", folder / "validation"
    images = _images(folder)
    train, validation = images, None
    if other is not None:
        validation = _images(other)
        if strange := [name for name in validation if name not in images]:
            raise Refusal(f"{other} has the class {strange[0]}, which {folder} has not")
    elif validation_split is not None:
        train, validation = {}, {}
        for name, files in images.items():
            mask = kept(len(files), validation_split)
            if mask.all():
                raise Refusal(f"{folder / name} has too few images for validation_split {validation_split}: it has one")
            train[name] = [file for file, out in zip(files, mask, strict=True) if not out]
            validation[name] = [file for file, out in zip(files, mask, strict=True) if out]
    classes = list(images)
    decode = Decode(tuple(image_size), channels)
    return Dataset(
        train=_stream(train, classes, decode),
        validation=None if validation is None else _stream(validation, classes, decode),
        input_shape=(*image_size, channels),
        classes=len(classes),
    )


class Decode:
    """A file of any of the formats, resized."""

    def __init__(self, image_size: tuple[int, int], channels: int) -> None:
        self._image_size = image_size
        self._channels = channels

    def __call__(self, path: Any, label: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        image = tf.io.decode_image(tf.io.read_file(path), channels=self._channels, expand_animations=False)
        image = tf.image.resize(image, self._image_size) / 255.0
        return tf.ensure_shape(image, (*self._image_size, self._channels)), label


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except FileNotFoundError as error:
        where = "" if folder.is_absolute() else f" in {Path.cwd()}"
        raise Refusal(f"{folder} does not exist{where}: give an absolute path that every host has") from error
    except OSError as error:
        raise Refusal(f"{folder} cannot be read: {error.strerror or error}") from error


def _images(folder: Path) -> dict[str, list[str]]:
    """By class, sorted."""
    names = sorted(_folders(folder))
    if not names:
        raise Refusal(f"{folder} has no folders: it needs one for each class, with the class's images in it")
    return {name: _of_class(folder / name) for name in names}


def _of_class(folder: Path) -> list[str]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(ENDINGS) and not entry.name.startswith("."):
                    if entry.stat().st_size == 0:
                        raise Refusal(f"{entry.path} is empty: remove it, or put the image in its place")
                    found.append(entry.path)
    except OSError as error:
        raise Refusal(f"{folder} cannot be read: {error.strerror or error}") from error
    if not found:
        raise Refusal(f"{folder} has no images: a class's folder holds files that end in {', '.join(ENDINGS)}")
    return sorted(found)


def _stream(images: Mapping[str, Sequence[str]], classes: Sequence[str], decode: Decode) -> Stream:
    paths = np.array([os.fsencode(path) for name in classes for path in images.get(name, ())])
    labels = np.array(
        [number for number, name in enumerate(classes) for _ in images.get(name, ())],
        np.int32,
    )
    return Stream(Files(paths, (labels,)), len(paths), decode)
