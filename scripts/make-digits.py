#!/usr/bin/env python3
"""Make distrain/worker/datasets/data/digits.npz from scikit-learn's copy of the UCI handwritten digits.

Needs scikit-learn, which distrain itself does not: python -m pip install scikit-learn. Every run writes the same bytes
(given the same zlib): the examples are shuffled once with a fixed seed, then 36 of each digit are set apart.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parent.parent / "distrain" / "worker" / "datasets" / "data" / "digits.npz"
SEED = 1797
TEST_EXAMPLES_PER_CLASS = 36


def main() -> None:
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    assert images.shape == (1797, 8, 8)
    assert np.array_equal(images, digits.images)

    order = list(range(len(images)))
    random.Random(SEED).shuffle(order)
    taken = dict.fromkeys(range(10), 0)
    train, test = [], []
    for index in order:
        label = int(labels[index])
        taken[label] += 1
        (test if taken[label] <= TEST_EXAMPLES_PER_CLASS else train).append(index)

    np.savez_compressed(TARGET, x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])
    print(f"{TARGET}: {len(train)} + {len(test)} digits, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
