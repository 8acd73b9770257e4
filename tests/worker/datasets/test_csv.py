"""The csv dataset: what is read, and the sentence for what is not. No TensorFlow here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import load_dataset
from distrain.worker.datasets.examples import Dataset
from distrain.worker.datasets.found import kept
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

TABLE = "height,width,kind,count\n1,2.5,0,7\n3,4.5,1,1\n5,6.5,2,0\n7,8.5,0,2\n"


def load(path: Path | str | None, **args: Any) -> Dataset:
    return load_dataset({"name": "csv", "path": None if path is None else str(path), "args": args}, Events(None))


def table(tmp_path: Path, text: str = TABLE, name: str = "table.csv") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def test_all_columns_but_label_and_weight_are_features(tmp_path: Path) -> None:
    data = load(table(tmp_path), label="kind", weight="count")
    assert (data.input_shape, data.classes, data.validation) == ((2,), 3, None)
    assert (data.train.x.tolist(), data.train.x.dtype) == ([[1, 2.5], [3, 4.5], [5, 6.5], [7, 8.5]], np.float32)
    assert (data.train.y.tolist(), data.train.y.dtype) == ([0, 1, 2, 0], np.int32)
    assert (data.train.w.tolist(), data.train.w.dtype) == ([7, 1, 0, 2], np.float32)


def test_features_stand_in_the_order_that_was_asked_for_and_text_elsewhere_does_no_harm(tmp_path: Path) -> None:
    text = '\ufeffname,a,"b, c",y\n"Doe, Jane",1,2,0.5\n\n"x",3,4,1\n'
    data = load(table(tmp_path, text), label="y", features=["b, c", "a"])
    assert data.train.x.tolist() == [[2, 1], [4, 3]]
    assert (data.train.y.tolist(), data.classes) == ([0.5, 1], None)


def test_without_a_header_columns_are_numbers(tmp_path: Path) -> None:
    data = load(table(tmp_path, "1,2,0\n3,4,1\n"), label=2, header=False)
    assert (data.train.x.tolist(), data.train.y.tolist()) == ([[1, 2], [3, 4]], [0, 1])
    assert load(table(tmp_path, "1,2,0\n"), label=0, features=[2], header=False).train.x.tolist() == [[0]]


def test_a_folder_and_a_pattern_are_all_their_files_in_order(tmp_path: Path) -> None:
    for name, value in (("b.csv", 2), ("a.csv", 1), ("c.txt", 3)):
        table(tmp_path, f"x,y\n{value},0\n", name)
    assert load(tmp_path, label="y").train.x.tolist() == [[1], [2]]
    assert load(tmp_path / "[bc].*", label="y").train.x.tolist() == [[2], [3]]
    data = load(tmp_path / "a.csv", label="y", validation_path=str(tmp_path / "c.txt"))
    assert (data.train.x.tolist(), data.validation.x.tolist()) == ([[1]], [[3]])


def test_rows_for_validation_are_always_the_same_and_in_one_part_only(tmp_path: Path) -> None:
    file = table(tmp_path, "x,y,w\n" + "".join(f"{n},{n % 3},{n}\n" for n in range(100)))
    data, again = (load(file, label="y", weight="w", validation_split=0.2) for _ in range(2))
    assert (data.train.size, data.validation.size) == (80, 20)
    assert sorted([*data.train.x[:, 0], *data.validation.x[:, 0]]) == list(range(100))
    assert data.validation.x.tolist() == again.validation.x.tolist()
    assert data.validation.w.tolist() == data.validation.x[:, 0].tolist()
    assert set(data.validation.y) == {0, 1, 2}, "what repeats in the rows does not show in what is drawn"


@pytest.mark.parametrize(("count", "fraction", "expected"), [(10, 0.1, 1), (10, 0.01, 1), (1, 0.5, 1), (8, 0.25, 2)])
def test_so_many_are_kept_for_validation(count: int, fraction: float, expected: int) -> None:
    assert kept(count, fraction).sum() == expected


@pytest.mark.parametrize(
    ("text", "args", "sentence"),
    [
        (TABLE, {}, "dataset csv needs 'label': give it under args"),
        (TABLE, {"label": "kind", "wieght": "count"}, "has no argument 'wieght'; it takes weight"),
        (TABLE, {"label": "kid"}, "has no column 'kid': it has height, width, kind, count"),
        (TABLE, {"label": 2}, "has no column 2: it has height"),
        (TABLE, {"label": "kind", "features": ["kind"]}, "features are kind, the label aside"),
        (TABLE, {"label": 9, "header": False}, "has no column 9: it has 0, 1, 2, 3; with header: false, columns are"),
        (TABLE, {"label": 0, "header": False}, "line 1: column 1 holds 'width', which is no number"),
        ("a,y\n1,0\nred,1\n", {"label": "y"}, "line 3: column 'a' holds 'red', which is no number: make numbers of it"),
        ("a,y\n1,0\n\n,1\n", {"label": "y"}, "line 4: column 'a' holds '', which is no number"),
        ("a,y\n1,0\n2\n", {"label": "y"}, "line 3 has 1 columns: 2 are needed"),
        ("a,y\n", {"label": "y"}, "has no rows below its header"),
        ("", {"label": "y"}, "is empty"),
        (
            "a,y\n1,0\n",
            {"label": "y", "validation_split": 0.5},
            "has 1 rows, of which validation_split 0.5 leaves",
        ),
        (TABLE, {"label": "kind", "validation_split": 1}, "validation_split is 1: it is a number between 0 and 1"),
        (TABLE, {"label": "kind", "validation_split": 0.5, "validation_path": "x"}, "both validation_split and valid"),
        (TABLE, {"label": "kind", "weight": "height", "validation_path": "no.csv"}, "no.csv does not exist in"),
        ("a,w,y\n1,-1,0\n", {"label": "y", "weight": "w"}, "train weights are not all finite and 0 or more"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        load(table(tmp_path, text), **args)


def test_what_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"dataset csv needs dataset\.path: the file, the folder or the pattern"):
        load(None, label="y")
    with pytest.raises(Refusal, match=r"has no files whose names end in \.csv"):
        load(tmp_path, label="y")
    with pytest.raises(Refusal, match=r"no file matches .*\*\.csv"):
        load(tmp_path / "*.csv", label="y")
    (tmp_path / "bytes.csv").write_bytes(b"a,y\n\xff\xfe\x00,1\n")
    with pytest.raises(Refusal, match=r"bytes\.csv"):
        load(tmp_path / "bytes.csv", label="y")
    table(tmp_path, "a,b,y\n1,2,0\n", "more.csv")
    with pytest.raises(Refusal, match=r"has other columns than"):
        load(table(tmp_path), label="kind", validation_path=str(table(tmp_path, "x,kind\n1,0\n", "v.csv")))
