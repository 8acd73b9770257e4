"""The dataset `csv`: tables of numbers, held in memory.

Owns which columns are what, and the sentence for a cell that is no number. NumPy reads the numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distrain.worker.datasets.examples import Dataset, InMemory, in_memory, of_arrays
from distrain.worker.datasets.found import check_validation, find, kept, needs_path
from distrain.worker.refusal import Refusal

Column = str | int
"""A name of the header, or where there is none a number, from 0."""


def load(
    path: str | None,
    label: Column,
    features: Sequence[Column] | None = None,
    weight: Column | None = None,
    header: bool = True,
    validation_split: float | None = None,
    validation_path: str | None = None,
) -> Dataset:
    """The rows of one or several files with the same columns, as x of float32[rows, features].

    `label` names the column of y, which is whole numbers if all of it is, `features` those of x, by default all others,
    and `weight` one of what each row counts. `validation_split`: the part of the rows that is kept for validation.

    Raises:
        Refusal: no such file or column, or a cell that is no number.
    """
    path = needs_path("csv", path, "the file, the folder or the pattern of the .csv files to read")
    check_validation("csv", validation_split, validation_path)
    columns = (label, features, weight)
    train = _read(path, "train", header, *columns)
    validation = None
    if validation_path is not None:
        validation = _read(validation_path, "validation", header, *columns)
        if features is None and validation.x.shape[1] != train.x.shape[1]:
            raise Refusal(
                f"{validation_path} has other columns than {path}: name those to use in dataset.args.features"
            )
    elif validation_split is not None:
        mask = kept(train.size, validation_split)
        if mask.all():
            raise Refusal(f"{path} has {train.size} rows, of which validation_split {validation_split} leaves none")
        validation, train = _rows(train, mask), _rows(train, ~mask)
    return of_arrays(train, validation, f"{path}:")


def _rows(examples: InMemory, mask: np.ndarray) -> InMemory:
    w = None if examples.w is None else examples.w[mask]
    return InMemory(examples.x[mask], examples.y[mask], int(mask.sum()), w=w)


def _read(
    path: str, what: str, header: bool, label: Column, features: Sequence[Column] | None, weight: Column | None
) -> InMemory:
    tables = []
    for file in find(path, (".csv",), "dataset csv"):
        names = _names(file, header)
        if features is None:
            wanted: list[Column] = [name for name in names if name not in (label, weight)]
        else:
            wanted = list(features)
        if not wanted or label in wanted:
            raise Refusal(f"{file}: features are {', '.join(map(str, wanted)) or 'none'}, the label aside")
        places = [_place(file, names, column) for column in (*wanted, label, *(() if weight is None else (weight,)))]
        tables.append(_numbers(file, header, names, places))
        if tables[-1].shape[1] != tables[0].shape[1]:
            raise Refusal(f"{file} has other columns than the files before it: name those to use in args.features")
    table = np.concatenate(tables)
    count = table.shape[1] - 1 - (weight is not None)
    y = table[:, count]
    if np.all(np.mod(y, 1) == 0) and np.all(np.abs(y) < 2**31):
        y = y.astype(np.int32)
    return in_memory(table[:, :count], y, f"{path}: {what}", w=None if weight is None else table[:, -1])


def _names(file: Path, header: bool) -> list[Any]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            first = next((row for row in csv.reader(opened) if row), None)
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"{file} is not a csv file of text in UTF-8: {error}") from error
    if first is None:
        raise Refusal(f"{file} is empty")
    return [name.strip() for name in first] if header else list(range(len(first)))


def _place(file: Path, names: Sequence[Column], column: Column) -> int:
    if column in names:
        return names.index(column)
    has = ", ".join(map(str, names[:20])) + (", …" if len(names) > 20 else "")
    hint = "; with header: false, columns are numbers from 0" if isinstance(names[0], int) else ""
    raise Refusal(f"{file} has no column {column!r}: it has {has}{hint}")


def _numbers(file: Path, header: bool, names: Sequence[Column], places: Sequence[int]) -> np.ndarray:
    """float64[rows, places]."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        lines = (line for line in opened if line.strip())
        if header:
            next(lines)
        first = next(lines, None)
        if first is None:
            raise Refusal(f"{file} has no rows below its header")

        def rows() -> Any:
            yield first
            yield from lines

        try:
            return np.loadtxt(rows(), delimiter=",", quotechar='"', comments=None, usecols=places, ndmin=2)
        except ValueError as error:  # a UnicodeDecodeError is one
            raise Refusal(_fault(file, header, names, places) or f"{file} cannot be read: {error}") from error


def _fault(file: Path, header: bool, names: Sequence[Column], places: Sequence[int]) -> str | None:
    """A sentence for the first cell that is no number."""
    with file.open(encoding="utf-8-sig", newline="", errors="replace") as opened:
        reader = csv.reader(opened)
        rows = (row for row in reader if any(cell.strip() for cell in row))
        if header:
            next(rows)
        for row in rows:
            if len(row) <= max(places):
                return f"{file}, line {reader.line_num} has {len(row)} columns: {len(names)} are needed, as above it"
            for place in places:
                try:
                    float(row[place])
                except ValueError:
                    return (
                        f"{file}, line {reader.line_num}: column {names[place]!r} holds {row[place]!r}, which is no "
                        "number: make numbers of it, or leave the column out of dataset.args.features"
                    )
    return None
