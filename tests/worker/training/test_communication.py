"""How gradients are summed: TensorFlow's ring, packs, 16 bits on the way; and where parameter servers keep weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from distrain.job.spec import DatasetSpec, JobSpec, Named

pytestmark = pytest.mark.tensorflow

DATA = DatasetSpec("user_code:arrays", batch_size=48)
TOKENS = DatasetSpec("knobs:tokens", batch_size=48)
ROUNDED = {"bfloat16": 0.02, "float16": 0.002}
"""By kind, how far losses may be from those of gradients that were not rounded."""
TWO = {"strategy": "MultiWorkerMirrored", "workers": 2}
WAYS = {
    "shared memory": TWO,
    "ring": {**TWO, "implementation": "ring"},
    "ring of three": {**TWO, "workers": 3, "implementation": "ring"},
    "devices": {"strategy": "Mirrored", "devices": 2},
}


def sgd(learning_rate: float = 0.05, **arguments: Any) -> Named:
    return Named("SGD", {"learning_rate": learning_rate, **arguments})


@pytest.fixture
def losses(start: Callable[[JobSpec], Any], make_job: Callable[..., JobSpec]) -> Callable[..., list[float]]:
    def losses_of(**keys: Any) -> list[float]:
        keys = {"model": Named("knobs:network"), "dataset": DATA, "optimizer": sgd(momentum=0.9), "epochs": 3, **keys}
        found = start(make_job(**keys, steps_per_call=1, validation=0)).succeed().chief.losses()
        assert len(found) == 10 * keys["epochs"]
        return found

    return losses_of


@pytest.mark.parametrize("data", ["dense", "embedding"])
def test_sixteen_bits_are_near_what_one_device_computes(data: str, losses: Callable[..., list[float]]) -> None:
    """The gradients of an embedding name the few rows that they have, and are gathered rather than summed."""
    keys = {"model": Named("knobs:embedding"), "dataset": TOKENS} if data == "embedding" else {}
    expected = losses(**keys)
    assert expected[-1] < 0.95 * expected[0], "nothing was learnt, so equal losses would show nothing"
    for way, where in WAYS.items():
        assert losses(**keys, **where) == pytest.approx(expected, rel=1e-5), way
        for kind, tolerance in ROUNDED.items():
            found = losses(**keys, **where, compression=kind)
            assert found == pytest.approx(expected, rel=tolerance), (way, kind)
            assert found != pytest.approx(expected, rel=1e-6), f"{way}: nothing was rounded to {kind}"


@pytest.mark.parametrize("kind", ROUNDED)
def test_gradients_that_16_bits_do_not_know_survive(kind: str, losses: Callable[..., list[float]]) -> None:
    """Of a loss a million times as large, and as small, where float16 alone ends at 65504 and at 6e-8."""
    common = {"model": Named("user_code:network"), "compression": kind, "epochs": 1, **WAYS["ring"]}
    expected = losses(**common, optimizer=sgd())
    for scale in (1e7, 1e-7):
        keys = {"loss": Named("knobs:scaled_loss", {"scale": scale}), "optimizer": sgd(0.05 / scale)}
        assert [loss / scale for loss in losses(**common, **keys)] == pytest.approx(expected, rel=ROUNDED[kind])


@pytest.mark.parametrize("kind", ROUNDED)
def test_a_scaled_loss_and_clipping_see_what_was_meant(kind: str, losses: Callable[..., list[float]]) -> None:
    """mixed_float16 begins with a scale that overflows, which only gradients that are not finite can tell it."""
    keys = {"precision": "mixed_float16", "optimizer": sgd(0.2, global_clipnorm=0.1)}
    expected = losses(**keys)
    assert expected[-1] < 0.95 * expected[0]
    assert losses(**keys, **WAYS["ring"], compression=kind) == pytest.approx(expected, rel=ROUNDED["bfloat16"])


def test_nccl_without_gpus_is_refused(start: Callable[..., Any], make_job: Any) -> None:
    assert_refused(start(make_job("Mirrored", devices=2, implementation="nccl")), "nccl, which sums among GPUs")


@pytest.mark.parametrize("model", ["own_step", "by_hand"])
def test_a_train_step_of_its_own_is_summed_before_anything_is_clipped(
    model: str, start: Callable[..., Any], make_job: Any
) -> None:
    keys = {"model": Named(f"user_code:{model}"), "dataset": DATA, "optimizer": sgd(0.5, global_clipnorm=0.05)}
    keys |= {"epochs": 2, "steps_per_call": 1}

    def validation(**where: Any) -> float:
        (done,) = start(make_job(**keys, **where)).succeed().chief.of("done")
        return done["metrics"]["validation"]["loss"]

    expected = validation()
    for where in ({"strategy": "Mirrored", "devices": 2}, {"strategy": "MultiWorkerMirrored", "workers": 2}):
        assert validation(**where) == pytest.approx(expected, rel=1e-5), where
        compressed = validation(**where, compression="bfloat16")
        assert compressed == pytest.approx(expected, rel=1e-2), where
        assert compressed != pytest.approx(expected, rel=1e-7), "16 bits leave a trace"


def assert_refused(run: Any, sentence: str) -> None:
    run.wait()
    (failure,) = run.chief.of("failure")
    assert failure["job_error"] is True, run.report()
    assert sentence in failure["message"]
    assert "Traceback" not in run.chief.text


@pytest.mark.parametrize("placement", ["round_robin", "by_size"])
def test_parameter_servers_share_the_variables(placement: str, start: Callable[..., Any], make_job: Any) -> None:
    spec = make_job(
        "ParameterServer",
        workers=1,
        ps=3,
        placement=placement,
        model=Named("knobs:uneven"),
        dataset=DATA,
        callbacks=(Named("knobs:Devices"),),
    )
    run = start(spec).succeed()
    groups = json.loads((run.run_dir / "devices.json").read_text())
    of_model = [(int(device.split("task:")[1].split("/")[0]), size) for _, device, size in groups["model"]]
    held = [0, 0, 0]
    places = []
    for number, (server, size) in enumerate(of_model[:12]):
        wanted = held.index(min(held)) if placement == "by_size" else number % 3
        places.append((server, wanted))
        held[server] += size
    assert [server for server, _ in places] == [wanted for _, wanted in places]
    slots = {path.rpartition("/")[2]: device for path, device, _ in groups["optimizer"] if "momentum" in path}
    weights = {path.replace("/", "_"): device for path, device, _ in groups["model"]}
    assert slots
    assert all(weights[name.removesuffix("_momentum")] == device for name, device in slots.items())
