"""Programs of many kinds through `distrain launch`: they are told what they need, and end as they should."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.tensorflow
def test_a_tensorflow_loop_of_ones_own(launch: Callable[..., Any], tmp_path: Path) -> None:
    launch("--workers", 1, "own_loop.py", tmp_path / "alone")
    run = launch("--workers", 2, "own_loop.py", tmp_path / "both")
    alone = read(tmp_path / "alone.0")
    assert alone[-1] < alone[0]
    for rank in (0, 1):
        np.testing.assert_allclose(read(tmp_path / f"both.{rank}"), alone, rtol=1e-5)
    assert run.metrics[-1]["step"] == 8, "the last report is never left out"
    np.testing.assert_allclose(run.metrics[-1]["metrics"]["loss"], alone[-1], rtol=1e-5)
    assert run.metrics[-1]["epoch"] is None


@pytest.mark.tensorflow
@pytest.mark.parametrize("code", [0, 7])
def test_servers_that_join_for_ever_end_with_the_chief(launch: Callable[..., Any], tmp_path: Path, code: int) -> None:
    hosts = ("--chief", 1, "--workers", 1, "--ps", 1, *(("--evaluator", 1) if code == 0 else ()))
    run = launch(*hosts, "parameter_server.py", tmp_path / "out", "coordinate", code, code=code)
    assert read(tmp_path / "out.chief") == 20.0
    if code:
        assert (run.summary["first_failure"]["task"], run.summary["first_failure"]["exit_code"]) == ("chief:0", code)
    else:
        evaluator = read(tmp_path / "out.evaluator")
        assert json.loads(evaluator["TF_CONFIG"])["task"] == {"type": "evaluator", "index": 0}
        assert evaluator["rank"] is None
        assert run.summary["metrics"]["validation"] == {"loss": 0.5}, "what an evaluator reports is validation"


@pytest.mark.tensorflow
def test_distrain_fit_under_every_strategy(launch: Callable[..., Any], tmp_path: Path) -> None:
    launch("--workers", 1, "fit_distrain.py", tmp_path / "one")
    run = launch("--workers", 2, "fit_distrain.py", tmp_path / "many")
    launch("--chief", 1, "--workers", 1, "--ps", 1, "fit_distrain.py", tmp_path / "ps")
    alone = read(tmp_path / "one.alone-0")
    assert alone["first"].keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for other in ("many.worker-0", "many.worker-1", "ps.chief-0"):  # with one worker, steps are taken in order
        found = read(tmp_path / other)
        for fit in ("first", "second"):
            for name, values in alone[fit].items():
                np.testing.assert_allclose(found[fit][name], values, rtol=1e-4, err_msg=f"{other} {name}")
        for one, two in zip(found["weights"], alone["weights"], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert "training: 2 epochs of 10 steps" in run.out
    assert run.summary["metrics"]["train"].keys() == {"loss", "accuracy"}


@pytest.mark.processes
def test_pytorch_ddp_as_torchrun_starts_it(launch: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    launch("--workers", 1, "ddp.py", tmp_path / "alone")
    run = launch("--workers", 2, "ddp.py", tmp_path / "both")
    alone = read(tmp_path / "alone.0")
    assert alone["losses"][-1] < alone["losses"][0]
    for rank in (0, 1):
        both = read(tmp_path / f"both.{rank}")
        np.testing.assert_allclose(both["losses"], alone["losses"], rtol=1e-4)
        assert not both["tensorflow"]
        assert not both["keras"], "a PyTorch script pays for nothing else"
    assert run.summary["steps"] == 10
    assert run.metrics[-1]["metrics"].keys() == {"loss"}


@pytest.mark.processes
def test_a_program_that_is_no_python(launch: Callable[..., Any]) -> None:
    run = launch("--workers", 3, "--", "shell.sh", "a b;$(c)'")
    for rank in range(3):
        assert run.log(f"worker:{rank}") == (
            f'worker:{rank} {rank}/3 of worker, chief {int(rank == 0)}, "$1" is a b;$(c)\'\n'
        )
    assert [(line["step"], line["metrics"]) for line in run.metrics] == [(5, {"score": 0.25})]
    addresses = read(run.rundir / "output" / "addresses.json")
    assert addresses.keys() == {"worker:0", "worker:1", "worker:2"}
    assert len(set(addresses.values())) == 3
