"""Which tasks are told to be slow, from what they say of their steps."""

from __future__ import annotations

from histories import History

from distrain.launcher.events import Event
from distrain.launcher.supervise.state import TaskState
from distrain.launcher.supervise.stragglers import Pace


def paced(seconds: float, **busy_s: float) -> Pace:
    """After so long of progress told twice a second."""
    pace, time = Pace(), 0.0
    while time <= seconds:
        for name, value in busy_s.items():
            pace = pace.after(Event(time, "progress", 1, name, "local", {"step": 1, "busy_s": value}))
        time += 0.5
    return pace


def test_the_slower_of_two_is_measured_by_the_faster() -> None:
    pace = paced(20.0, a=0.1, b=0.18)
    assert round(pace.ratios["a"], 2) == 1.0
    assert round(pace.ratios["b"], 2) == 1.8
    assert pace.stragglers(20.0) == ["b"]


def test_of_many_it_is_the_usual_one_that_counts() -> None:
    assert paced(20.0, a=0.1, b=0.11, c=0.3, d=0.09).stragglers(20.0) == ["c"]


def test_nobody_is_slow_at_once_nor_by_a_little() -> None:
    assert paced(9.0, a=0.1, b=0.3).stragglers(9.0) == []
    assert paced(60.0, a=0.1, b=0.14).stragglers(60.0) == []


def test_who_catches_up_is_slow_no_more() -> None:
    pace = paced(9.0, a=0.1, b=0.3)
    for time in range(10, 40):
        pace = pace.after(Event(float(time), "progress", 1, "b", "local", {"step": 1, "busy_s": 0.1}))
    assert pace.stragglers(40.0) == []


def test_a_chief_tells_it_of_its_workers() -> None:
    pace = Pace()
    of = {"worker:0": {"step_s": 0.1, "steps": 3}, "worker:1": {"step_s": 0.2, "steps": 1}}
    for time in range(20):
        data = {"step": time, "busy_s": None, "of": of}
        pace = pace.after(Event(float(time), "progress", 1, "chief:0", "local", data))
    assert pace.stragglers(20.0) == ["worker:1"]


def test_odd_figures_are_passed_over() -> None:
    for data in ({"busy_s": "fast"}, {"busy_s": 0}, {"of": 3}, {"of": {"worker:0": 7}}, {"of": {"w": {"step_s": "x"}}}):
        assert Pace().after(Event(0.0, "progress", 1, "a", "local", {"step": 1, **data})) == Pace()


def test_it_is_told_once_in_an_attempt_and_kept() -> None:
    history = History(TaskState("worker:0", "a"), TaskState("worker:1", "b"), chief="worker:0").running()
    for second in range(4, 60):
        for name, busy_s in (("worker:0", 0.1), ("worker:1", 0.2)):
            history.at(float(second), "progress", name, step=second, busy_s=busy_s)
    (told,) = history.told("straggler")
    assert (told.task, told.host, told.data["ratio"]) == ("worker:1", "b", 2.0)
    assert history.state.stragglers == ({"task": "worker:1", "host": "b", "attempt": 1, "ratio": 2.0},)
