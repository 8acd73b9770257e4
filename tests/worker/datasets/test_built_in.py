"""The built-in image datasets, up to the arrays: no TensorFlow here."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.agent.bootstrap import unpack
from distrain.launcher.hosts.bundle import open_bundle
from distrain.worker.datasets import load_dataset, mnist
from distrain.worker.datasets.download import DownloadFailed
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

MNIST_10K = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mnist-10k"

needs_mnist_10k = pytest.mark.skipif(
    not MNIST_10K.is_dir(), reason="../shared/data/mnist-10k is not beside the repository"
)


def load(name: str, path: Any = None, **args: Any) -> Any:
    spec = {"name": name, "path": None if path is None else str(path), "batch_size": 8, "args": args}
    return load_dataset(spec, Events(None))


def test_digits_are_the_uci_digits_split_once_and_for_all() -> None:
    digits = load("digits")
    assert (digits.train.size, digits.validation.size) == (1437, 360)
    assert digits.train.x.shape == (1437, 8, 8)
    assert (digits.input_shape, digits.classes) == ((8, 8, 1), 10)
    assert np.bincount(digits.validation.y).tolist() == [36] * 10
    labels = np.concatenate([digits.train.y, digits.validation.y])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's own counts
    images = np.concatenate([digits.train.x, digits.validation.x])
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 16)
    assert int(images.astype(int).sum()) == 561718  # the sum over scikit-learn's copy


@pytest.mark.processes
def test_digits_load_without_tensorflow_from_what_travels_to_a_host(tmp_path: Path) -> None:
    unpack(open_bundle().data, str(tmp_path / "code"))
    program = """
import json, sys
sys.path[:0] = [sys.argv[1]]
from distrain.worker import datasets, telemetry
from distrain.worker.model import models
digits = datasets.load_dataset({"name": "digits", "path": None, "args": {}}, telemetry.Events(None))
heavy = [name for name in ("tensorflow", "keras") if name in sys.modules]
print(json.dumps([datasets.__file__, digits.train.size, heavy]))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "code")],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        text=True,
    )
    file, size, heavy = json.loads(answer.stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert (size, heavy) == (1437, [])


def test_built_in_datasets_refuse_what_they_do_not_take() -> None:
    with pytest.raises(Refusal, match="dataset digits is part of distrain"):
        load("digits", path="/somewhere")
    with pytest.raises(Refusal, match="dataset digits takes no args, but was given size"):
        load("digits", size=3)
    with pytest.raises(Refusal, match="there is no dataset 'minst': there are mnist, "):
        load("minst")


@needs_mnist_10k
def test_mnist_of_ones_own_is_read_from_path() -> None:
    data = load("mnist", MNIST_10K)
    assert (data.train.size, data.validation.size) == (8000, 2000)
    assert (data.train.x.shape, data.train.x.dtype) == ((8000, 28, 28), np.uint8)
    assert (data.input_shape, data.classes, data.train.y.dtype) == ((28, 28, 1), 10, np.int32)
    assert np.bincount(np.concatenate([data.train.y, data.validation.y])).sum() == 10_000


@needs_mnist_10k
def test_mnist_is_looked_for_in_distrain_data_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "download", lambda *rest: pytest.fail("the network was asked"))
    cache = tmp_path / "cache" / "distrain" / "datasets" / "fashion_mnist"
    cache.mkdir(parents=True)
    for path in MNIST_10K.glob("*.gz"):
        (cache / path.name).symlink_to(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DISTRAIN_DATA", str(tmp_path / "data"))
    assert load("fashion_mnist").train.size == 8000
    own = tmp_path / "data" / "fashion_mnist"
    own.mkdir(parents=True)
    with pytest.raises(Refusal, match=f"{own} has no train-images-idx3-ubyte"):
        load("fashion_mnist")


def test_offline_and_absent_tells_the_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*rest: Any) -> None:
        raise DownloadFailed("example.org: Network is unreachable")

    monkeypatch.setattr(mnist, "download", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DISTRAIN_DATA", raising=False)
    with pytest.raises(Refusal) as refusal:
        load("mnist")
    sentence = str(refusal.value)
    for part in (
        "example.org: Network is unreachable",
        "dataset.path",
        "$DISTRAIN_DATA/mnist",
        str(tmp_path / "distrain"),
    ):
        assert part in sentence


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "distrain").write_text("a file where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DISTRAIN_DATA", raising=False)
    with pytest.raises(Refusal, match=r"cannot be written to .*set XDG_CACHE_HOME"):
        load("mnist")


def test_every_source_has_the_four_files_with_a_sha256() -> None:
    for source in mnist.SOURCES.values():
        assert {file.name.removesuffix(".gz") for file in source.files} == set(mnist.idx.FILE_STEMS)
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in source.files)
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        assert len(source.mirrors) > 1


def test_the_gzip_files_of_a_path_are_read_without_checksums(tmp_path: Path) -> None:
    header = {3: b"\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x01", 1: b"\0\0\x08\x01\0\0\0\x02"}
    for stem in mnist.idx.FILE_STEMS:
        axes = 3 if "images" in stem else 1
        (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(header[axes] + b"\x01\x02"))
    data = load("mnist", tmp_path)
    assert (data.train.size, data.input_shape, data.classes) == (2, (1, 1, 1), 10)
