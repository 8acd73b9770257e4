"""Where compiled modules go. The `tensorflow` in these tests is a package of one line."""

from __future__ import annotations

import os
import py_compile
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import sys
from pathlib import Path
from distrain.worker import bytecode

before = sys.pycache_prefix, sys.dont_write_bytecode
with bytecode.cached(Path(sys.argv[1]) if sys.argv[1] else None):
    import tensorflow
    print(tensorflow.__cached__)
assert (sys.pycache_prefix, sys.dont_write_bytecode) == before
"""


def imported(tmp_path: Path, *, writes: bool, folder: str) -> str:
    """Imports the package in a process of its own; where its compiled form would be."""
    package = tmp_path / "site" / "tensorflow"
    package.mkdir(parents=True, exist_ok=True)
    source = package / "__init__.py"
    if not source.exists():
        source.write_text("x = 1\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONPATH": str(tmp_path / "site")} | ({} if writes else {"PYTHONDONTWRITEBYTECODE": "1"})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_what_python_would_forget_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    compiled = Path(imported(tmp_path, writes=False, folder=str(kept)))
    assert compiled.is_relative_to(kept)
    assert compiled.exists()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert not (tmp_path / "site" / "tensorflow" / "__pycache__").exists()
    first = compiled.stat().st_mtime_ns
    assert Path(imported(tmp_path, writes=False, folder=str(kept))) == compiled
    assert compiled.stat().st_mtime_ns == first, "the second import reads what the first has written"


@pytest.mark.parametrize("why", ["python keeps it", "it was kept", "there is no place"])
def test_otherwise_nothing_changes(tmp_path: Path, why: str) -> None:
    kept = tmp_path / "cache"
    own = tmp_path / "site" / "tensorflow"
    if why == "it was kept":
        own.mkdir(parents=True)
        (own / "__init__.py").write_text("x = 1\n")
        py_compile.compile(str(own / "__init__.py"))
    folder = "" if why == "there is no place" else str(kept)
    compiled = Path(imported(tmp_path, writes=why == "python keeps it", folder=folder))
    assert compiled.is_relative_to(own)
    assert compiled.exists() == (why != "there is no place")
    assert not kept.exists()
