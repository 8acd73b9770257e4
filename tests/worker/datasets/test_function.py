"""A dataset function of the user's own that returns arrays, and every way to name it wrongly. No TensorFlow here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.worker.datasets import load_dataset
from distrain.worker.datasets.examples import Dataset
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events


def load(name: str, path: str | None = None, **args: Any) -> Dataset:
    return load_dataset({"name": name, "path": path, "batch_size": 8, "args": args}, Events(None))


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module of the user's own, importable as `users_<n>`; gives its name."""
    written: list[str] = []

    def write(source: str) -> str:
        name = f"users_{tmp_path.name}_{len(written)}".replace("-", "_")
        written.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()  # two files within one tick of the clock look like none
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_function_may_return_arrays_in_every_documented_form(user_module: Any) -> None:
    module = user_module("""
import numpy as np
x, y = np.zeros((6, 3)), np.array([0, 1, 2, 0, 1, 2])
def arrays(n=6): return x[:n], y[:n]
def pairs(): return (x, y), (x[:2], y[:2])
def alone(): return (x, y), None
def named(): return {"train": ([x, y]), "validation": (x[:2], y[:2]), "classes": 5}
def parts(): return {"train": ({"a": x, "b": (x, x)}, (y, y))}
def weighted(): return (x, y, y + 1), (x, y)
def weighted_parts(): return {"train": ({"a": x}, (y, y), y / 2)}
""")
    data = load(f"{module}:arrays", n=4)
    assert (data.train.size, data.validation, data.input_shape, data.classes) == (4, None, (3,), 3)
    assert (data.train.x.dtype, data.train.prepare) == (np.float32, None)
    assert load(f"{module}:pairs").validation.size == 2
    assert load(f"{module}:alone").validation is None
    assert load(f"{module}:named").classes == 5
    data = load(f"{module}:parts")
    assert (data.train.size, data.input_shape, data.classes) == (6, None, None)
    assert set(data.train.x) == {"a", "b"}
    data = load(f"{module}:weighted")
    assert (data.train.w.tolist(), data.train.w.dtype, data.validation.w) == ([1, 2, 3, 1, 2, 3], np.float32, None)
    assert load(f"{module}:weighted_parts").train.w.tolist() == [0, 0.5, 1, 0, 0.5, 1]


def test_wrong_returns_are_described(user_module: Any) -> None:
    module = user_module("""
import numpy as np
x, y = np.zeros((6, 3)), np.zeros(6)
def nothing(): pass
def array(): return x
def triple(): return x, y, x
def negative(): return x, y, y - 1
def lists(): return [1, 2], [3, 4]
def rows():
    yield x, y
def keys(): return {"x": x, "y": y}
def short(): return x, y[:5]
def dict_short(): return {"train": ({"a": x, "b": x[:5]}, y)}
def no_train(): return {"train": None}
def bad_classes(): return {"train": (x, y), "classes": "ten"}
def narrow(): return (x, y), (x[:, :2], y)
""")
    for function, sentence in {
        "nothing": "returned no training examples: None; expected are unbatched examples",
        "array": r"examples are float64\[6, 3\]; expected",
        "triple": r"train weights are float64\[6, 3\]: one number for each of the 6 examples",
        "negative": "train weights are not all finite and 0 or more",
        "lists": "train examples are .*int, int.*; expected",
        "rows": "examples are generator; expected",
        "keys": "returned a dict with x, y; expected",
        "short": r"do not match: float32\[6, 3\] in x but float32\[5\] in y",
        "dict_short": "do not match",
        "no_train": "returned no training examples",
        "bad_classes": "returned 'ten' as classes",
        "narrow": "training and validation differ in shape",
    }.items():
        with pytest.raises(Refusal, match=sentence) as refusal:
            load(f"{module}:{function}")
        assert f"{module}:{function}" in str(refusal.value)


def test_wrong_names_and_arguments_are_told_with_the_nearest(user_module: Any, tmp_path: Path) -> None:
    module = user_module("""
import sys
Loaders = {}
def load_all(fraction=1.0, seed=0, *, split): raise OSError("the user's own")
def load_path(path): raise LookupError(path)
""")
    for name, args, sentence in [
        (f"{module}:load_al", {}, "has no 'load_al'; did you mean 'load_all'"),
        (f"{module}:Loaders", {}, "is a dict, not a function"),
        (f"{module}:Loaders.made", {}, f"{module}:Loaders has no 'made'"),
        (f"{module[:-1]}9:load_all", {}, f"there is no module {module[:-1]}9; did you mean '{module}'.*looked in"),
        (f"{module}.deeper:load", {}, f"for {module} is a module and not a package"),
        (f"{module}.py:load", {}, f"names a file: write the module, {module}:load"),
        (f"{module}:", {}, "write package.module:function"),
        ("..relative:load", {}, "write package.module:function"),
        (f"{module}:load_all", {"fracton": 1}, "has no argument 'fracton'; it takes fraction, "),
        (f"{module}:load_all", {}, "needs 'split': give it under args"),
    ]:
        with pytest.raises(Refusal, match=sentence):
            load(name, **args)
    with pytest.raises(Refusal, match="takes no path"):
        load(f"{module}:load_all", path="/data", split="train")
    with pytest.raises(OSError, match="the user's own"):
        load(f"{module}:load_all", split="train")
    with pytest.raises(LookupError, match="/data"):
        load(f"{module}:load_path", path="/data")


def test_what_a_users_module_raises_on_import_is_the_users(user_module: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        load(f"{user_module('1 / 0')}:load")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load(f"{user_module('import no_such_dependency')}:load")
    with pytest.raises(Refusal, match=r"ended the program \(sys.exit\)"):
        load(f"{user_module('raise SystemExit(0)')}:load")
