"""Who claims OneDevice's mathematics has OneDevice's losses, step by step; who does not has a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from equivalence_table import SAME, STEPS, Difference

from distrain.job.spec import DatasetSpec, JobSpec, MeshSpec, Named

pytestmark = pytest.mark.tensorflow

SGD = Named("SGD", {"learning_rate": 0.05, "momentum": 0.9, "global_clipnorm": 0.5})
MWMS = {"strategy": "MultiWorkerMirrored", "workers": 2}
RING = {**MWMS, "implementation": "ring"}
IN_MEMORY: dict[str, tuple[float, dict[str, Any]]] = {
    "`Mirrored`, 3 devices": (SAME, {"strategy": "Mirrored", "devices": 3}),
    "`MultiWorkerMirrored`, 1 worker": (SAME, {"strategy": "MultiWorkerMirrored", "workers": 1}),
    "`MultiWorkerMirrored`, 2 workers": (SAME, MWMS),
    "`MultiWorkerMirrored`, 3 workers": (SAME, {**MWMS, "workers": 3}),
    "`implementation: ring`": (SAME, RING),
    "`pack_bytes: 4096`": (SAME, {**MWMS, "pack_bytes": 4096}),
    "`accumulate: 3`, `OneDevice`": (SAME, {"accumulate": 3}),
    "`accumulate: 2`, 2 workers": (SAME, {**MWMS, "accumulate": 2}),
    "`steps_per_call: 7`": (SAME, {"steps_per_call": 7}),
    "`ModelParallel`, 2 devices": (SAME, {"strategy": "ModelParallel", "devices": 2}),
    "`ModelParallel`, 2 workers": (SAME, {"strategy": "ModelParallel", "workers": 2}),
    "`Hybrid`, 2 x 2 devices": (SAME, {"strategy": "Hybrid", "devices": 4, "mesh": MeshSpec(2, 2)}),
    "`Hybrid`, 2 x 2, 2 workers": (SAME, {"strategy": "Hybrid", "workers": 2, "devices": 2, "mesh": MeshSpec(2, 2)}),
    "`compression: float16`": (1e-4, {**MWMS, "compression": "float16"}),
    "`compression: bfloat16`": (2e-3, {**MWMS, "compression": "bfloat16"}),
    "`compression: float16, implementation: ring`": (1e-4, {**RING, "compression": "float16"}),
    "`compression: bfloat16, implementation: ring`": (2e-3, {**RING, "compression": "bfloat16"}),
    "`ParameterAveraging`, 2 workers, `sync_every: 8`": (
        0.5,
        {"strategy": "ParameterAveraging", "workers": 2, "sync_every": 8},
    ),
    "`ParameterServer`, 1 worker": (1e-4, {"strategy": "ParameterServer", "workers": 1, "ps": 1}),
    "`ParameterServer`, 2 workers": (0.5, {"strategy": "ParameterServer", "workers": 2, "ps": 1}),
}
STREAMED: dict[str, tuple[float, dict[str, Any]]] = {
    "`shard: examples`, 2 workers": (SAME, {**MWMS, "shard": "examples"}),
    "`data_workers: 2`": (SAME, {"data_workers": 2}),
    "`data_workers: 2`, 2 workers": (SAME, {**MWMS, "data_workers": 2}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> DatasetSpec:
    """Examples in TFRecord files."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("records")
    random = np.random.default_rng(1)
    for number in range(4):
        with tf.io.TFRecordWriter(str(folder / f"{number}.tfrecord")) as writer:
            for _ in range(96 * STEPS // 8):
                x = random.normal(size=16).astype(np.float32)
                features = {
                    "x": tf.train.Feature(float_list=tf.train.FloatList(value=x)),
                    "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(x[:3].sum() > 0)])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    kinds = {"x": {"dtype": "float32", "shape": [16]}, "y": {"dtype": "int64"}}
    return DatasetSpec("tfrecord", str(folder), args={"features": kinds, "label": "y", "classes": 2})


def losses(start: Callable[[JobSpec], Any], make_job: Callable[..., JobSpec], **keys: Any) -> dict[int, float]:
    """By step: those of the first STEPS that were told."""
    keys = {"steps_per_call": 1, "batch_size": 96, "optimizer": SGD, "epochs": 3, "validation": 0, **keys}
    told = start(make_job(**keys)).succeed().chief.of("metrics")
    return {one["step"]: one["metrics"]["step_loss"] for one in told if one["step"] <= STEPS}


def compared(expected: dict[int, float], found: dict[int, float]) -> float:
    assert expected[STEPS] < 0.9 * expected[1], "nothing was learnt, so equal losses would show nothing"
    assert len(found) >= 4
    return max(abs(loss - expected[step]) / expected[step] for step, loss in found.items())


@pytest.mark.timeout(900)
def test_in_memory(start: Any, make_job: Any, measured: Callable[[Difference], None]) -> None:
    expected = losses(start, make_job)
    found = {name: (bound, losses(start, make_job, **keys)) for name, (bound, keys) in IN_MEMORY.items()}
    judge(found, expected, measured)


@pytest.mark.timeout(900)
def test_from_files(start: Any, make_job: Any, files: DatasetSpec, measured: Callable[[Difference], None]) -> None:
    expected = losses(start, make_job, dataset=files)
    found = {name: (bound, losses(start, make_job, dataset=files, **keys)) for name, (bound, keys) in STREAMED.items()}
    judge(found, expected, measured)


def judge(
    found: dict[str, tuple[float, dict[int, float]]], expected: dict[int, float], measured: Callable[[Difference], None]
) -> None:
    differences = [Difference(name, compared(expected, told), bound) for name, (bound, told) in found.items()]
    for difference in differences:
        measured(difference)
    assert [one for one in differences if not one.largest <= one.bound] == []
