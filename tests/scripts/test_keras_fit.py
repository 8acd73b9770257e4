"""Keras 3's own `fit`, `evaluate` and `predict` in scripts that know nothing of distrain, against a single process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow


def said(out: Path, task: str) -> dict[str, Any]:
    return json.loads(Path(f"{out}.{task}").read_text())


def assert_same(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, tolerance, f"{where}/{key}")
        return
    if where == "/weights":
        assert [np.shape(weight) for weight in found] == [np.shape(weight) for weight in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=where)
        return
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=where)


@pytest.mark.parametrize(
    ("spelling", "optimizer", "steps_per_execution", "tolerance"),
    [("keras", "sgd", 1, 1e-5), ("tf.keras", "adam", 4, 1e-3)],
)
def test_the_numbers_of_a_single_process(
    launch: Callable[..., Any],
    tmp_path: Path,
    spelling: str,
    optimizer: str,
    steps_per_execution: int,
    tolerance: float,
) -> None:
    options = (f"optimizer={optimizer}", f"steps_per_execution={steps_per_execution}")
    launch("--workers", 1, "fit_mwms.py", spelling, tmp_path / "alone", *options)
    run = launch("--workers", 2, "fit_mwms.py", spelling, tmp_path / "both", *options)
    alone = said(tmp_path / "alone", "alone-0")
    assert alone["dataset"]["loss"][0] > alone["dataset"]["loss"][1], "it learns"
    for task in ("worker-0", "worker-1"):
        assert_same(said(tmp_path / "both", task), alone, tolerance)
    assert len(alone["predict"]) == 96
    assert len(alone["predict_part"]) == 70
    announced = [line for task in ("worker:0", "worker:1") for line in run.log(task).splitlines() if "repaired" in line]
    assert len(announced) == 1, "said once, by the chief"
    assert [event["task"] for event in run.events if event["kind"] == "note"] == ["worker:0"]


def test_callbacks_that_write_do_so_once_and_a_backup_brings_all_back(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("alone", "both"):
        (tmp_path / name).mkdir()
    launch("--workers", 1, "callbacks_mwms.py", tmp_path / "alone", 3)
    launch("--workers", 2, "callbacks_mwms.py", tmp_path / "both", 3, 2)
    assert (tmp_path / "both" / "backup" / "latest.weights.h5").exists()
    # The chief alone has a backup; the other starts from it all the same.
    run = launch("--workers", 2, "callbacks_mwms.py", tmp_path / "both", 3)
    alone = json.loads((tmp_path / "alone" / "seen-0.json").read_text())
    for task in (0, 1):
        both = json.loads((tmp_path / "both" / f"seen-{task}.json").read_text())
        assert [epoch for epoch, *_ in both["epochs"]] == [2]
        assert_same(both["weights"], alone["weights"], 1e-3, "/weights")
        np.testing.assert_allclose(both["epochs"][-1], alone["epochs"][-1], rtol=1e-3)
    written = {file.name for file in (tmp_path / "both").iterdir()}
    assert written == {
        "best.keras",
        "log.csv",
        *(f"epoch-{epoch}.weights.h5" for epoch in (1, 2, 3)),
        *(f"seen-{task}.json" for task in (0, 1)),
    }
    assert len((tmp_path / "both" / "log.csv").read_text().splitlines()) == 2, "of the last start, by one writer"
    # Its Keras callback reported: the chief's figures, with the epochs and steps that Keras knows of.
    last = [line for line in run.metrics if line["split"] == "train"][-1]
    assert (last["epoch"], set(last["metrics"])) == (3, {"loss"})
    assert run.summary["metrics"]["validation"].keys() == {"loss"}
    reporting = {event["task"] for event in run.events if event["kind"] == "progress"}
    assert reporting == {"worker:0", "worker:1"}
    assert {event["task"] for event in run.events if event["kind"] == "metrics"} == {"worker:0"}


def test_without_the_repair_keras_fails_as_it_does(launch: Callable[..., Any], tmp_path: Path) -> None:
    run = launch("--workers", 2, "--no-keras-repair", "fit_mwms.py", "keras", tmp_path / "out", code=1)
    assert "PerReplica" in run.summary["first_failure"]["message"] + run.out
    assert "repaired" not in run.out


def test_parameter_server_fit_says_what_to_do_instead(launch: Callable[..., Any], tmp_path: Path) -> None:
    hosts = ("--chief", 1, "--workers", 1, "--ps", 1)
    run = launch(*hosts, "parameter_server.py", tmp_path / "out", "fit", code=1)
    sentence = "Keras 3.15.1 has no model.fit under ParameterServerStrategy: call distrain.fit"
    assert sentence in run.summary["first_failure"]["message"]
    log = run.log("chief:0")
    assert log.index(f"error: {sentence}") < log.index("Traceback (most recent call last)")
