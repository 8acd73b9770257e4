"""Keras callbacks run on all tasks with the same logs; those that write run on the chief alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distrain.job.spec import DatasetSpec, Named

pytestmark = pytest.mark.tensorflow

DATA = DatasetSpec("user_code:arrays", batch_size=48)
NETWORK = Named("user_code:network")
RECORDER = Named("user_code:Recorder")


def calls(run: Any, task: str) -> list[list[Any]]:
    return [json.loads(line) for line in (run.run_dir / f"calls-{task}.jsonl").read_text().splitlines()]


def test_all_workers_hear_the_same_and_stop_together(start: Any, make_job: Any) -> None:
    spec = make_job(
        "MultiWorkerMirrored",
        workers=2,
        model=NETWORK,
        dataset=DATA,
        epochs=9,
        callbacks=(
            Named("user_code:Recorder", {"stop_after": 3}),
            Named("ModelCheckpoint", {"filepath": "best.keras"}),
            Named("csv_logger", {"filename": "log.csv"}),
        ),
    )
    run = start(spec).succeed()
    assert run.chief.of("done")[0]["epochs"] == 3
    first, second = calls(run, "worker-0"), calls(run, "worker-1")
    assert first == second
    assert [what for what, *_ in first] == ["train_begin", *["epoch_end"] * 3]
    assert first[-1][2].keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert (run.run_dir / "best.keras").exists()
    assert len((run.run_dir / "log.csv").read_text().splitlines()) == 4, "a second writer, or a lost line"


@pytest.mark.parametrize(("strategy", "where"), [("OneDevice", {}), ("ParameterServer", {"workers": 2, "ps": 1})])
def test_keras_callbacks_that_decide(strategy: str, where: dict[str, int], start: Any, make_job: Any) -> None:
    spec = make_job(
        strategy,
        model=NETWORK,
        dataset=DATA,
        epochs=20,
        optimizer=Named("SGD", {"learning_rate": 0.0}),
        callbacks=(
            Named("EarlyStopping", {"monitor": "val_loss", "patience": 2}),
            Named("user_code:halving"),
            Named("user_code:Recorder"),
        ),
        **where,
    )
    run = start(spec).succeed()
    assert run.chief.of("done")[0]["epochs"] == 3, "nothing gets better at a learning rate of 0"
    ends = [logs for what, _, logs in calls(run, f"{run.chief.name.replace(':', '-')}") if what == "epoch_end"]
    assert [logs["learning_rate"] for logs in ends] == [0.0, 0.0, 0.0]


def test_learning_rate_schedules_by_callback_and_by_name(start: Any, make_job: Any) -> None:
    common = {"model": NETWORK, "dataset": DATA, "epochs": 3, "validation": 0}
    spec = make_job(
        **common, optimizer=Named("SGD", {"learning_rate": 0.8}), callbacks=(Named("user_code:halving"), RECORDER)
    )
    ends = [logs for what, _, logs in calls(start(spec).succeed(), "worker-0") if what == "epoch_end"]
    assert [logs["learning_rate"] for logs in ends] == pytest.approx([0.4, 0.2, 0.1])
    schedule = {"name": "ExponentialDecay", "initial_learning_rate": 0.5, "decay_steps": 10, "decay_rate": 0.0}
    spec = make_job(
        **common, optimizer=Named("SGD", {"learning_rate": schedule}), callbacks=(RECORDER,), steps_per_call=10
    )
    first, second, third = [
        logs["loss"] for what, _, logs in calls(start(spec).succeed(), "worker-0") if what == "epoch_end"
    ]
    assert first > second == pytest.approx(third, rel=0.01), "a rate of 0 after the first step changes nothing more"


def test_a_callback_of_the_users_own_hears_of_every_step(start: Any, make_job: Any) -> None:
    spec = make_job(model=NETWORK, dataset=DATA, epochs=2, validation=2, callbacks=(Named("user_code:EachStep"),))
    run = start(spec).succeed()
    steps = [[what, index] for index in range(10) for what in ("batch_begin", "batch_end")]
    heard = [[what, index] for what, index, _ in calls(run, "worker-0") if what != "train_begin"]
    assert heard == [*steps, ["epoch_end", 0], *steps, ["test_begin", None], ["test_end", None], ["epoch_end", 1]]
