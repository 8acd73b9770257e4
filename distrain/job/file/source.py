"""The text of a job file: its bytes, read and decoded, and places in it.

Owns what may be wrong with a file before it is YAML at all.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from distrain.errors import Complaint, JobError

MAX_BYTES = 256 * 1024
_JOBS = (".yaml", ".yml")

_UNPRINTABLE = re.compile(r"[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What YAML allows nowhere, and a byte order mark anywhere but at the start."""


@dataclass(frozen=True)
class Place:
    """Where something was written. `line` 0: the file (or option) as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def complaint(self, problem: str, remedy: str) -> Complaint:
        return Complaint(self.file, self.line, self.column, problem, remedy)


def refuse(place: Place, problem: str, remedy: str) -> NoReturn:
    raise JobError((place.complaint(problem, remedy),))


def read_source(path: Path) -> bytes:
    """The bytes of a job file.

    Raises:
        JobError: there is no such file, it is no regular file, cannot be read, or is too large.
    """
    place = Place(str(path))
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                refuse(place, "this is a pipe, socket or device, and a job is a regular file", "name a YAML file")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        refuse(place, "there is no such file", nearest_file(path))
    except IsADirectoryError:
        inside = sorted(_files_in(path, _JOBS))
        remedy = f"name a file, such as {path / inside[0]}" if inside else "name a YAML file"
        refuse(place, "this is a directory, and a job is a file", remedy)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        refuse(place, f"the file cannot be read: {reason}", "check its name and its permissions")
    if len(data) > MAX_BYTES:
        problem = f"the file is larger than {MAX_BYTES // 1024} KiB, and a job is never that long"
        refuse(place, problem, "name a job file, and keep data in files of its own")
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Opening a FIFO would otherwise wait for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _files_in(directory: Path, endings: tuple[str, ...]) -> list[str]:
    """The names of the files with these endings in a directory; none if it does not let anybody look."""
    try:
        return [found.name for found in directory.iterdir() if found.suffix in endings]
    except OSError:
        return []


def nearest_file(path: Path, endings: tuple[str, ...] = _JOBS) -> str:
    """What to do about a path that leads to no file: the name that was probably meant, among those that end so."""
    if not path.parent.is_dir():
        return f"there is no directory {path.parent} either; check the path"
    # By their stems: what all names end in makes none of them alike.
    by_stem = {Path(name).stem: name for name in _files_in(path.parent, endings)}
    near = difflib.get_close_matches(path.stem, by_stem, n=1, cutoff=0.7)
    return f"did you mean {path.parent / by_stem[near[0]]}?" if near else "check the path"


def decode(source: bytes, file: str) -> str:
    """The text of a job file.

    Raises:
        JobError: it is not UTF-8, or holds characters that no text has.
    """
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        refuse(Place(file), "the file is UTF-16", "save it as UTF-8")
    source = source.removeprefix(b"\xef\xbb\xbf")
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        before = source[: error.start].decode()
        problem = f"byte 0x{source[error.start]:02x} at offset {error.start} is not UTF-8"
        refuse(_place_after(file, before), problem, "save the file as UTF-8")
    if odd := _UNPRINTABLE.search(text):
        problem = f"character U+{ord(odd[0]):04X} cannot be in a text file"
        refuse(_place_after(file, text[: odd.start()]), problem, "remove it")
    return text


def _place_after(file: str, before: str) -> Place:
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
