"""What every task needs and can be had before it is known which task it is: imports, and nothing that runs an op."""

from __future__ import annotations

import importlib

_MODULES = (
    "distrain.worker.__main__",
    "distrain.worker.training",
    "distrain.worker.strategies.one_device",
    "distrain.worker.strategies.mirrored",
    "distrain.worker.strategies.multi_worker_mirrored",
    "distrain.worker.strategies.parameter_server",
)


def prepare() -> None:
    """Import the modules that a task would otherwise import on first use."""
    for module in _MODULES:
        importlib.import_module(module)
