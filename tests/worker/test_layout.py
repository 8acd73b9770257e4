"""Which part of which array each device holds."""

from __future__ import annotations

import itertools

import pytest

from distrain.worker.refusal import Refusal
from distrain.worker.strategies.layout import Grid, Weight, layouts, of_slot

LARGE = Weight("net/dense/kernel", (64, 128), "net/dense", 1)
BIAS = Weight("net/dense/bias", (128,), "net/dense", 0)
LAST = Weight("net/dense_1/kernel", (128, 10), "net/dense_1", 1)
NORM = Weight("net/norm/gamma", (128,))
WEIGHTS = [LARGE, BIAS, LAST, NORM]
GRID = Grid(batch=2, model=2, devices=4)


def test_auto_divides_the_outputs_of_large_layers_and_their_biases() -> None:
    assert layouts(WEIGHTS, None, GRID) == [(None, "model"), ("model",), (None, None), (None,)]


def test_auto_leaves_a_layer_whole_that_the_devices_cannot_share_equally() -> None:
    assert layouts(WEIGHTS, None, Grid(1, 3, 3)) == [(None, None), (None,), (None, None), (None,)]


def test_auto_divides_all_of_a_group_or_nothing() -> None:
    heads = Weight("net/attention/query/kernel", (64, 4, 16), "net/attention", 1)
    odd = Weight("net/attention/value/kernel", (64, 3, 16), "net/attention", 1)
    assert layouts([heads], None, GRID) == [(None, "model", None)]
    assert layouts([heads, odd], None, GRID) == [(None,) * 3] * 2


def test_a_given_layout_is_found_anywhere_in_a_path_and_the_rest_stays_whole() -> None:
    given = {"dense/kernel$": ["model", None], "norm": [None]}
    assert layouts(WEIGHTS, given, GRID) == [("model", None), (None,), (None, None), (None,)]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"dens/kernel": [None, "model"]},
            "'dens/kernel' is found in no variable's path: the nearest are net/dense/k",
        ),
        ({"dense/kernel": ["model"]}, "net/dense/kernel has 2 axes ([64, 128]): name a dimension or null for each"),
        ({"dense_1/kernel": [None, "rows"]}, "the mesh has no dimension 'rows': there are batch and model"),
        ({"dense/kernel": ["model", "model"]}, "can divide only one axis"),
        (
            {"dense": [None, "model"], "kernel": [None, "model"]},
            "two entries for net/dense/kernel, 'dense'",
        ),
        ({"(dense": [None]}, "'(dense' is no regular expression"),
    ],
)
def test_a_layout_that_fits_nothing_is_refused(given: dict[str, list[str | None]], sentence: str) -> None:
    with pytest.raises(Refusal) as refused:
        layouts(WEIGHTS, given, GRID)
    assert sentence in str(refused.value)


def test_a_layout_that_does_not_divide_is_refused() -> None:
    with pytest.raises(Refusal, match=r"axis 1 of net/dense_1/kernel .* has 10 elements, which 4 devices"):
        layouts(WEIGHTS, {"dense_1/kernel": [None, "model"]}, Grid(1, 4, 4))


def test_an_optimizers_slot_is_divided_like_its_weight() -> None:
    found = layouts(WEIGHTS, None, GRID)
    assert of_slot("net_dense_kernel_momentum", (64, 128), WEIGHTS, found) == (None, "model")
    assert of_slot("net_dense_1_kernel_momentum", (128, 10), WEIGHTS, found) == (None, None)
    assert of_slot("net_dense_kernel_row", (64,), WEIGHTS, found) == (None,), (
        "of another shape: a part of it is not known"
    )
    assert of_slot("iteration", (), WEIGHTS, found) == ()


@pytest.mark.parametrize(("batch", "model", "devices"), [(1, 4, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (4, 1, 2)])
def test_all_devices_together_hold_each_element_and_each_row_of_the_batch(batch: int, model: int, devices: int) -> None:
    grids = [Grid(batch, model, devices, worker) for worker in range(batch * model // devices)]
    assert [place for grid in grids for place in grid.places] == list(itertools.product(range(batch), range(model)))
    assert {row for grid in grids for row in grid.rows} == set(range(batch))
    cuts = [grid.cut((8, 12), ("batch", "model"), place) for grid in grids for place in grid.places]
    held = [(i, j) for rows, columns in cuts for i in range(8)[rows] for j in range(12)[columns]]
    assert sorted(held) == list(itertools.product(range(8), range(12)))
    assert grids[0].held(Weight("", (8, 12)), (None, "model")) == (96 // model, 96)


def test_a_mesh_whose_rows_do_not_fit_the_workers_is_refused() -> None:
    with pytest.raises(Refusal, match="let one be a multiple of the other"):
        Grid(batch=2, model=3, devices=2)
