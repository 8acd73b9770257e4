"""What every task needs and can be had before it is known which task it is: imports, and nothing that runs an op."""

from __future__ import annotations


def prepare() -> None:
    """Import the modules that training would otherwise import on first use."""
    import distrain.worker.training  # noqa: F401
