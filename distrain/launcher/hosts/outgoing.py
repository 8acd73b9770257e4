"""What is large and goes to a host, as messages that are made one by one, as the connection has room for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distrain import wire

_PART_BYTES = 1 << 18


def parts_of_code(data: bytes) -> Iterator[wire.Message]:
    """The user's code."""
    for start in range(0, len(data), _PART_BYTES):
        yield wire.CodePart(data[start : start + _PART_BYTES])


def parts_of_folder(folder: Path, artifact: str) -> Iterator[wire.Message]:
    """The files of `folder`, to become the folder `artifact` there.

    Raises:
        OSError: they cannot be read.
    """
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        size_bytes = (folder / name).stat().st_size
        starts = range(0, max(size_bytes, 1), _PART_BYTES)
        with open(folder / name, "rb") as file:
            for start in starts:
                ends_file = start == starts[-1]
                yield wire.FilePart(
                    artifact,
                    name,
                    begins=name == names[0] and start == 0,
                    ends_file=ends_file,
                    ends=ends_file and name == names[-1],
                    executable=False,
                    data=file.read(_PART_BYTES),
                )
