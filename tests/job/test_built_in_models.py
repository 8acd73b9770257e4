"""The arguments of the built-in models, as the job file's reader and the worker know them."""

from __future__ import annotations

import inspect

from distrain.job.file.schema import BUILT_IN_MODELS
from distrain.job.spec import MODELS
from distrain.worker.model import models


def test_reader_and_worker_agree() -> None:
    assert set(BUILT_IN_MODELS) == set(MODELS)
    for name in MODELS:
        takes = set(inspect.signature(getattr(models, name)).parameters) - {"input_shape"}
        assert set(BUILT_IN_MODELS[name]) == takes
