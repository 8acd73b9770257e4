"""The line that `distrain --version` prints."""

from __future__ import annotations

import platform
from importlib import metadata

import distrain


def version_line() -> str:
    """distrain, Python, TensorFlow and Keras, without importing the latter two."""
    parts = [f"distrain {distrain.__version__}", f"Python {platform.python_version()}"]
    for package, title in (("tensorflow", "TensorFlow"), ("keras", "Keras")):
        try:
            parts.append(f"{title} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{title} not installed")
    return ", ".join(parts)
