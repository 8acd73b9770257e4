"""What a sweep's figures say: of one run from its events, and of all runs in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distrain.job.spec import ClusterSpec, JobSpec
from distrain.launcher.bench.measure import Measurement, TooShort, measure
from distrain.launcher.bench.plan import Combination, Contender
from distrain.launcher.bench.result import Row, efficiency, recommendation, to_json
from distrain.launcher.events import Event

MEBIBYTE = 1 << 20


def event(time: float, kind: str, task: str | None = "worker:0", **data: Any) -> Event:
    return Event(time, kind, 1, task, "local", data)


def usage(time: float, task: str, sent: int | None, memory: int = MEBIBYTE) -> Event:
    return event(time, "usage", task, memory_bytes=memory, cpu_s=1.0, sent_bytes=sent, received_bytes=sent)


def started(time: float) -> Event:
    return event(
        time,
        "started",
        epochs=1,
        steps_per_epoch=60,
        first_step=0,
        batch_size=32,
        train_examples=9,
        validation_examples=0,
    )


def steps(*reached: tuple[float, int]) -> list[Event]:
    return [event(time, "progress", step=step) for time, step in reached]


RUN = [
    usage(9.0, "worker:0", 500),
    usage(9.5, "worker:0", 1000),
    event(9.5, "ready"),
    started(10.0),
    *steps((13.0, 1), (14.0, 10), (15.0, 30)),
    usage(15.0, "worker:0", 4000, 7 * MEBIBYTE),
    *steps((17.0, 60)),
    usage(17.1, "worker:0", 7000, 3 * MEBIBYTE),
    event(17.1, "done"),
]


def test_speed_is_that_of_the_chief_after_the_warm_up() -> None:
    others = event(15.5, "progress", "worker:1", step=60)
    assert measure([*RUN[:-3], others, *RUN[-3:]], warm_up_steps=10).examples_per_s == pytest.approx(50 * 32 / 3.0)
    assert measure(RUN, warm_up_steps=20).examples_per_s == pytest.approx(30 * 32 / 2.0)


def test_bytes_are_those_between_ready_and_the_last_look_over_the_steps_meanwhile() -> None:
    figures = measure(RUN, warm_up_steps=10)
    assert figures.sent_bytes_per_step == pytest.approx(6000 / 60)
    assert figures.memory_bytes == {"worker:0": 7 * MEBIBYTE}
    # Without a look at the end, the steps until the last one count.
    assert measure(RUN[:-2], warm_up_steps=10).sent_bytes_per_step == pytest.approx(3000 / 30)


def test_bytes_of_all_tasks_add_up_and_one_that_cannot_be_told_leaves_none() -> None:
    served = [usage(9.0, "ps:0", 10), event(9.5, "ready", "ps:0")]
    assert measure([*served, *RUN, usage(17.0, "ps:0", 610)], 10).sent_bytes_per_step == pytest.approx(100 + 10)
    assert measure([*served, *RUN, usage(17.0, "ps:0", None)], 10).sent_bytes_per_step is None
    assert measure([*served, *RUN], 10).sent_bytes_per_step is None


@pytest.mark.parametrize("warm_up_steps", [31, 61])
def test_a_run_that_is_over_too_soon_has_no_speed(warm_up_steps: int) -> None:
    with pytest.raises(TooShort):
        measure(RUN, warm_up_steps)
    with pytest.raises(TooShort):
        measure([], 0)


# ---- what it all means


def row(
    workers: int, speeds: list[float], *, sent: float | None = 0.0, failure: str | None = None, **others: str
) -> Row:
    settings = {"cluster.workers": str(workers), **others}
    job = JobSpec("j", cluster=ClusterSpec(workers=workers))
    measured = {number: Measurement(speed, sent, {"worker:0": 5}) for number, speed in enumerate(speeds, start=1)}
    return Row(Contender(Combination(settings), job), measured, failure=failure)


def test_efficiency_is_what_a_worker_does_beside_what_it_does_among_the_fewest() -> None:
    rows = [row(1, [100, 110, 120]), row(2, [180, 198, 192]), row(4, [240, 264, 240])]
    assert efficiency(rows[0], rows) is None
    two, four = efficiency(rows[1], rows), efficiency(rows[2], rows)
    assert two is not None
    assert four is not None
    assert (two.least, two.median, two.most) == pytest.approx((0.8, 0.9, 0.9))
    assert four.median == pytest.approx(0.6)


def test_efficiency_compares_only_what_is_alike() -> None:
    rows = [row(1, [100.0], a="x"), row(1, [10.0], a="y"), row(2, [20.0], a="y")]
    ratio = efficiency(rows[2], rows)
    assert ratio is not None
    assert ratio.median == pytest.approx(1.0)


def test_the_fastest_is_recommended_and_by_how_much() -> None:
    rows = [row(1, [100, 101, 102], sent=400.0, a="none"), row(2, [180, 190, 200], sent=200.0, a="half")]
    assert recommendation(rows) == (
        "Take 2 workers, a half: 190 examples/s.",
        "It is 1.88 times as fast as 1 worker, a none (1.80 to 1.96), and sends 0.50 times the bytes per step.",
    )


def test_a_difference_below_the_spread_is_none_and_fewer_workers_are_enough() -> None:
    rows = [row(2, [100, 120, 110]), row(1, [110, 100, 105])]
    assert recommendation(rows) == (
        "Take 1 worker: 105 examples/s.",
        "2 workers: no faster than that, within the spread.",
    )


def test_few_rounds_are_said_to_be_few() -> None:
    told = recommendation([row(1, [100.0]), row(2, [150.0])])
    assert told[0] == "Take 2 workers: 150 examples/s."
    assert told[1] == "It is 1.50 times as fast as 1 worker."
    assert "--repeats 3" in told[2]


def test_what_has_failed_is_not_recommended() -> None:
    rows = [row(1, [], failure="it broke"), row(2, [150, 150, 150])]
    assert recommendation(rows) == ("2 workers: 150 examples/s; there is nothing to compare with.",)
    assert recommendation(rows[:1]) == ("nothing was measured",)
    assert [each["failure"] for each in to_json(rows)] == ["it broke", None]


def test_everything_measured_is_in_the_json() -> None:
    rows = [row(1, [100, 120, 110], sent=None), row(2, [200, 200, 200], sent=50.0)]
    first, second = json.loads(json.dumps(to_json(rows)))
    assert first["examples_per_s"] == {"median": 110, "least": 100, "most": 120}
    assert (first["sent_bytes_per_step"], first["efficiency"]) == (None, None)
    assert second["sent_bytes_per_step"]["median"] == 50.0
    assert second["settings"] == {"cluster.workers": "2"}
    assert second["rounds"]["3"] == {
        "examples_per_s": 200,
        "sent_bytes_per_step": 50.0,
        "memory_bytes": {"worker:0": 5},
    }
