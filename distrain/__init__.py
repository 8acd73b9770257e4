"""distrain: a launcher for distributed training with TensorFlow and Keras.

Owns the version and the short list of names that a program may import from `distrain`. Nothing is imported here until
one of them is used: a task has this module too, without the launcher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distrain.job.load import load_job
    from distrain.launcher.run import RunResult, run_job

__version__ = "0.1.0"
__all__ = ["RunResult", "__version__", "fit", "keras_callback", "load_job", "report", "run_job"]

_HOMES = {
    "fit": "distrain.worker.script.fit",
    "keras_callback": "distrain.worker.script.report",
    "report": "distrain.worker.script.report",
    "load_job": "distrain.job.load",
    "run_job": "distrain.launcher.run",
    "RunResult": "distrain.launcher.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'distrain' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
