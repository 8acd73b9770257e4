"""Python's compiled modules, kept for the next run where the environment keeps Python from keeping them.

Compiling TensorFlow's sources takes three times as long as loading it compiled. Where its folder holds no compiled
modules and Python may not put them there (PYTHONDONTWRITEBYTECODE, a read-only image), they go into distrain's cache.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = "tensorflow"


@contextlib.contextmanager
def cached(folder: Path | None) -> Iterator[None]:
    """Within, modules are compiled into `folder`, if Python would compile `_PACKAGE` and then forget it.

    `folder` None: there is no place for them.
    """
    prefix, forget = sys.pycache_prefix, sys.dont_write_bytecode
    if folder is not None and _is_compiled_each_time():
        with contextlib.suppress(OSError):  # where nothing can be kept, nothing is
            folder.mkdir(mode=0o700, exist_ok=True)
            sys.pycache_prefix, sys.dont_write_bytecode = str(folder), False
    try:
        yield
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = prefix, forget


def cache_folder() -> Path | None:
    """The place beside the cached code that this process runs from; None: it runs from somewhere else."""
    code = Path(__file__).parents[3]
    return code.parent / "bytecode" if code.name == "code" else None


def _is_compiled_each_time() -> bool:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None or sys.pycache_prefix is not None:
        return False
    compiled = importlib.util.cache_from_source(spec.origin)
    may_write = not sys.dont_write_bytecode and os.access(os.path.dirname(spec.origin), os.W_OK)
    return not (os.path.exists(compiled) or may_write)
