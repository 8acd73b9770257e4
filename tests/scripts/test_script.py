"""A script is run as Python itself would run it, and what it fails with is told. No TensorFlow here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distrain.worker.script import keras_repair

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    events: list[dict[str, Any]]


def run(tmp_path: Path, text: str, *arguments: str, plainly: bool = False, **env: str) -> Ended:
    """Run a script with that text, by distrain's entry, or `plainly` by Python."""
    folder = tmp_path / "of the script"
    folder.mkdir(exist_ok=True)
    script = folder / "train.py"
    script.write_text(text)
    entry = [] if plainly else ["-m", "distrain.worker.script"]
    reader, writer = os.pipe()
    with os.fdopen(reader) as events:
        try:
            process = subprocess.Popen(
                [sys.executable, *entry, str(script.relative_to(tmp_path)), *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), "DISTRAIN_EVENTS_FD": str(writer), **env},
                pass_fds=[writer],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            os.close(writer)
        out, err = process.communicate(timeout=60)
        told = [event for event in map(json.loads, events) if event["kind"] != "pulse"]
        return Ended(process.returncode, out, err, told)


WHAT_A_SCRIPT_SEES = """
import inspect, json, os, pickle, sys
import beside

class Value:
    pass

print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "file": __file__, "name": __name__,
    "main": sys.modules["__main__"].Value is Value,
    "module": pickle.loads(pickle.dumps(Value())).__class__.__module__, "source": inspect.getsource(Value),
    "beside": beside.__file__, "spec": str(__spec__), "docstring": __doc__, "cwd": os.getcwd(),
    "builtins": type(__builtins__).__name__,
}))
"""


def test_a_script_sees_what_it_would_see_without_us(tmp_path: Path) -> None:
    (tmp_path / "of the script").mkdir()
    (tmp_path / "of the script" / "beside.py").write_text("")
    ours, pythons = (
        run(tmp_path, WHAT_A_SCRIPT_SEES, "--lr", "0.1", "--no-keras-repair", "", plainly=plainly)
        for plainly in (False, True)
    )
    assert (ours.code, ours.err) == (0, ""), ours.err
    assert json.loads(ours.out) == json.loads(pythons.out)
    assert ours.events == []


SPAWNS = """
import multiprocessing

def square(x):
    return x * x

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [2, 3]))
"""


def test_processes_that_a_script_spawns_find_its_functions(tmp_path: Path) -> None:
    ended = run(tmp_path, SPAWNS)
    assert (ended.code, ended.out) == (0, "[4, 9]\n"), ended.err


FAILS = """
import json

def load():
    return json.loads("{")

load()
"""


@pytest.mark.parametrize(
    "text",
    [FAILS, "x = (", "raise KeyboardInterrupt", "import sys\nsys.excepthook = lambda *error: print('mine')\n1/0"],
)
def test_a_failure_prints_and_exits_as_without_us(tmp_path: Path, text: str) -> None:
    ours, pythons = (run(tmp_path, text, plainly=plainly) for plainly in (False, True))
    assert ours.code == pythons.code
    assert ours.out == pythons.out
    if text != "raise KeyboardInterrupt":  # how that one is told is Python's own affair
        assert ours.err == pythons.err


def test_a_failure_is_told_with_the_users_own_line(tmp_path: Path) -> None:
    (failure,) = run(tmp_path, FAILS).events
    assert failure["kind"] == "failure"
    assert failure["message"].startswith("JSONDecodeError: Expecting property name")
    assert failure["where"] == f"{tmp_path}/of the script/train.py:5"
    assert "distrain/worker/" not in failure["traceback"]


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("raise SystemExit", 0, []),
        ("raise SystemExit(7)", 7, []),
        ("raise SystemExit('no data in /data')", 1, ["no data in /data"]),
        ("import os; os._exit(5)", 5, []),
        ("import atexit; atexit.register(print, 'bye')", 0, []),
    ],
)
def test_exit_codes_are_the_scripts_own(tmp_path: Path, text: str, code: int, told: list[str]) -> None:
    ours, pythons = (run(tmp_path, text, plainly=plainly) for plainly in (False, True))
    assert ours.code == pythons.code == code
    assert (ours.out, ours.err) == (pythons.out, pythons.err)
    assert [event["message"] for event in ours.events] == told


def test_a_script_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "distrain.worker.script", "nowhere.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: nowhere.py cannot be read: No such file or directory\n"


ALONE = """
import sys
from distrain import report
report(step=1, epoch=1, loss=0.5)
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded - set(sys.stdlib_module_names) - {"__main__", "__mp_main__"}))
"""


def test_report_needs_nothing_but_what_is_sent_to_a_host(tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "distrain"
    shutil.copytree(ROOT / "distrain" / "worker", tree / "worker")
    for name in ("__init__.py", "wire.py"):
        shutil.copy(ROOT / "distrain" / name, tree / name)
    reader, writer = os.pipe()
    with os.fdopen(reader) as events:
        try:
            ended = subprocess.run(
                [sys.executable, "-S", "-c", ALONE],
                cwd=tmp_path,
                env={"PYTHONPATH": str(tree.parent), "DISTRAIN_EVENTS_FD": str(writer), "DISTRAIN_CHIEF": "1"},
                pass_fds=[writer],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        finally:
            os.close(writer)
        assert (ended.returncode, ended.stdout) == (0, "['distrain']\n"), ended.stderr
        assert [json.loads(line)["kind"] for line in events] == ["metrics", "progress"]


@pytest.mark.parametrize(
    ("version", "changed", "repaired", "said"),
    [
        ("3.10.0", {}, ("_maybe_symbolic_build", "reduce_per_replica"), "is repaired"),
        ("3.15.1", {}, ("_maybe_symbolic_build", "reduce_per_replica"), "is repaired"),
        ("3.15.9", {"reduce_per_replica": "mended"}, ("_maybe_symbolic_build",), "is repaired"),
        ("3.15.9", {"reduce_per_replica": "mended", "_maybe_symbolic_build": "mended"}, (), "needs no repair"),
        ("3.16.0", {}, (), "was tested with Keras 3.10 to 3.15"),
        ("3.1.0", {}, (), "was tested with Keras 3.10 to 3.15"),
    ],
)
def test_keras_is_repaired_where_it_was_tested_and_still_needs_it(
    version: str, changed: dict[str, str], repaired: tuple[str, ...], said: str
) -> None:
    faults, sentence = keras_repair.decide(version, {**keras_repair.FAULTS, **changed})
    assert faults == repaired
    assert sentence.startswith(f"Keras {version} ")
    assert said in sentence
