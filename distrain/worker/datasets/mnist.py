"""MNIST and Fashion-MNIST: where their four files are looked for, and where they come from.

The order: the job's own path, `$DISTRAIN_DATA/<name>`, the cache, the network.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from distrain.worker.datasets import idx
from distrain.worker.datasets.download import DownloadFailed, RemoteFile, Source, download, is_complete
from distrain.worker.datasets.examples import Dataset, Pixels, in_memory
from distrain.worker.refusal import Refusal
from distrain.worker.telemetry import Events

CLASSES = 10

SOURCES = {
    "mnist": Source(
        "mnist",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion_mnist": Source(
        "fashion_mnist",
        (
            # Its authors' own place serves no https; the checksums below make that harmless.
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        (
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
}


def load(source: Source, path: str | None, events: Events) -> Dataset:
    """Read `source` from the first place that has it. Images of any size, rows x columns, labels 0 to 9.

    Raises:
        Refusal: no place has it, or the files there are wrong.
    """
    files = idx.read_folder(_folder(source, path, events), CLASSES)
    scale = Pixels(255)
    return Dataset(
        train=in_memory(files.train_images, files.train_labels.astype(np.int32), "train", scale),
        validation=in_memory(files.test_images, files.test_labels.astype(np.int32), "validation", scale),
        input_shape=scale.shape(files.train_images.shape[1:]),
        classes=CLASSES,
    )


def _folder(source: Source, path: str | None, events: Events) -> Path:
    if path is not None:
        return Path(path).expanduser()
    if (data := os.environ.get("DISTRAIN_DATA")) and (own := Path(data).expanduser() / source.name).exists():
        return own
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distrain" / "datasets" / source.name
    try:
        if not is_complete(source, cache):
            download(source, cache, events)
    except DownloadFailed as error:
        raise Refusal(
            f"{source.name} is not on this machine and could not be downloaded ({error}): give the folder of its four "
            f"files as dataset.path, or put them under $DISTRAIN_DATA/{source.name}, or fetch them on a machine with "
            f"a network and copy them to {cache}"
        ) from error
    except OSError as error:
        raise Refusal(
            f"{cache} cannot be written to ({error.strerror or error}): set XDG_CACHE_HOME to a folder that can, or "
            f"give the folder of {source.name}'s four files as dataset.path"
        ) from error
    return cache
