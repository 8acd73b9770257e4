"""distrain: a launcher for distributed training with TensorFlow and Keras.

Owns the version and the short list of names that user code may import from `distrain`.
Nothing heavy is imported here: names resolve on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"
