"""Reads IDX, the format of MNIST's files: a magic number, the length of each axis, and unsigned bytes.

A file is plain, or gzip where its name ends in `.gz`. Nothing of it is believed: whatever the bytes are, the answer is
an array or a Refusal that names the file. Does not know where files are nor what the images show.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distrain.worker.refusal import Refusal

FILE_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Folder:
    """The four files: uint8 images of shape (examples, rows, columns), uint8 labels of shape (examples,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read_folder(folder: Path, classes: int) -> Folder:
    """Read the four files in `folder`, each as it is named in FILE_STEMS, or that with `.gz`.

    Raises:
        Refusal: a file is absent or not what its name says, two do not belong together, or a label is not one of
            0..`classes`-1.
    """
    paths = [_find(folder, stem) for stem in FILE_STEMS]
    arrays = []
    for images_path, labels_path in (paths[:2], paths[2:]):
        images, labels = read(images_path, axes=3), read(labels_path, axes=1)
        if len(images) != len(labels):
            raise Refusal(
                f"{images_path} has {len(images)} images but {labels_path.name} beside it has {len(labels)} labels: "
                "they do not belong together"
            )
        if labels.max() >= classes:
            at = int(np.argmax(labels >= classes))
            raise Refusal(f"{labels_path} gives example {at} the label {labels[at]}: labels are 0 to {classes - 1}")
        arrays += [images, labels]
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        sizes = ["{}x{}".format(*images.shape[1:]) for images in (arrays[0], arrays[2])]
        raise Refusal(f"the images in {paths[0]} are {sizes[0]} but those in {paths[2].name} are {sizes[1]}")
    return Folder(*arrays)


def _find(folder: Path, stem: str) -> Path:
    try:
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            wanted = f"give the folder that holds {FILE_STEMS[0]}.gz and its three fellows"
            if not folder.is_absolute():  # here it may be there, and on a host far away not
                what = f"{what} in {Path.cwd()}"
                wanted += (
                    ", as an absolute path that every host has, or leave dataset.path out and set DISTRAIN_DATA there"
                )
            raise Refusal(f"{folder} {what}: {wanted}")
        for name in (stem, f"{stem}.gz"):
            if (folder / name).exists():
                return folder / name
    except OSError as error:
        raise Refusal(f"{folder} cannot be read: {error.strerror}") from error
    raise Refusal(f"{folder} has no {stem} (nor {stem}.gz): it needs {', '.join(FILE_STEMS)}, plain or .gz")


def read(path: Path, axes: int) -> np.ndarray:
    """The uint8 array of `axes` axes in the file at `path`, none of them empty.

    Raises:
        Refusal: the file cannot be read, is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            if path.suffix != ".gz":
                return _read(file, path, axes)
            if file.peek(2)[:2] not in (_GZIP_MAGIC, b""):
                raise Refusal(f"{path} is not gzip data, though its name ends in .gz: fetch it again, or rename it")
            return _read(gzip.GzipFile(fileobj=file), path, axes)
    except gzip.BadGzipFile as error:
        raise Refusal(f"{path} is damaged ({error}): fetch it again") from error
    except (EOFError, zlib.error) as error:
        raise Refusal(f"{path} is damaged or cut short: fetch it again") from error
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path, axes: int) -> np.ndarray:
    magic = file.read(4)
    if not magic:
        raise Refusal(f"{path} is empty: fetch it again")
    if magic[:2] == _GZIP_MAGIC:
        raise Refusal(f"{path} is gzip data: give its name the ending .gz")
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise Refusal(f"{path} is no IDX file: it begins with {magic.hex(' ')}, not with 00 00 08 {axes:02x}")
    if magic[2] != _UNSIGNED_BYTE:
        raise Refusal(f"{path} holds values of IDX type 0x{magic[2]:02x}: only unsigned bytes (0x08) are read")
    if magic[3] != axes:
        kinds = {1: "labels (1 axis)", 3: "images (3 axes)"}
        raise Refusal(f"{path} holds {kinds.get(magic[3], f'{magic[3]} axes')} where {kinds[axes]} are expected")
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise Refusal(f"{path} is cut short: it ends inside its header, so fetch it again")
    shape = struct.unpack(f">{axes}I", lengths)
    expected = math.prod(shape)
    if expected == 0:
        raise Refusal(f"{path} is empty: its header tells of {'x'.join(map(str, shape))} values")
    # Chunk by chunk, so that a header that lies about the lengths costs no more memory than the file has bytes.
    data = bytearray()
    while len(data) <= expected and (chunk := file.read(min(_CHUNK_BYTES, expected + 1 - len(data)))):
        data += chunk
    if len(data) < expected:
        raise Refusal(f"{path} is cut short: {len(data)} of the {expected} bytes that its header tells of")
    if len(data) > expected:
        raise Refusal(f"{path} goes on after the {expected} bytes that its header tells of: it is not a whole IDX file")
    return np.frombuffer(data, np.uint8).reshape(shape)
