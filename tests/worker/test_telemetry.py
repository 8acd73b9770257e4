"""The event stream of a task, and how many steps a call takes: without TensorFlow."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from distrain.worker.assignment import read_assignment
from distrain.worker.refusal import Refusal
from distrain.worker.strategies.pace import TARGET_S, Pace
from distrain.worker.telemetry import Events, headline, users_frame


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(reader: int) -> list[dict]:
    return [json.loads(line) for line in os.read(reader, 65536).splitlines()]


@pytest.fixture
def stream():
    reader, writer = os.pipe()
    clock = Clock()
    yield reader, writer, Events(writer, clock), clock
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            assert descriptor == reader, "only a test closes the reader itself"


def test_an_event_is_a_line_of_json(stream) -> None:
    reader, _, events, _ = stream
    events.send("metrics", metrics={"loss": None, "accuracy": 0.5, "steps": 3}, path=Path("a"), epoch=1)
    assert os.read(reader, 4096) == (
        b'{"kind":"metrics","metrics":{"loss":null,"accuracy":0.5,"steps":3},"path":"a","epoch":1}\n'
    )


def test_numbers_that_are_none_and_arrays_arrive_as_what_they_are(stream) -> None:
    reader, _, events, _ = stream
    events.send("metrics", loss=float("nan"), lowest=np.float32("-inf"), flags=np.array([True, False]))
    events.send("metrics", matrix=np.array([[1, 2], [3, 4]]), row=np.array([0.5, np.inf]), count=np.int64(7))
    first, second = lines(reader)
    assert math.isnan(first["loss"])
    assert (first["lowest"], first["flags"]) == (-math.inf, [True, False])
    assert second == {"kind": "metrics", "matrix": [[1, 2], [3, 4]], "row": [0.5, math.inf], "count": 7}


def test_a_rate_holds_for_each_kind_by_itself(stream) -> None:
    reader, _, events, clock = stream
    for passed in (0.0, 0.1, 0.1, 0.1):
        clock.now += passed
        events.send_at_most(0.25, "progress", step=1)
        events.send_at_most(0.0, "metrics", step=1)
    assert [line["kind"] for line in lines(reader)] == ["progress", *["metrics"] * 3, "progress", "metrics"]


def test_a_reader_that_is_gone_costs_nothing(stream) -> None:
    reader, _, events, _ = stream
    os.close(reader)
    events.send("phase", phase="training")
    events.failure(ValueError("x"))


def test_no_stream_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "nonsense", "987654"):
        monkeypatch.setenv("DISTRAIN_EVENTS_FD", text)
        Events.from_environment().send("phase", phase="training")


def test_a_failure_names_the_innermost_place_in_the_users_code(stream) -> None:
    reader, _, events, _ = stream
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    events.failure(caught.value)
    assert users_frame(caught.value).startswith(f"{__file__}:")
    (failure,) = lines(reader)
    assert failure["message"].startswith("JSONDecodeError: Expecting")
    assert "Traceback" in failure["traceback"]
    events.failure(Refusal("too few examples"))
    assert lines(reader) == [
        {"kind": "failure", "message": "too few examples", "traceback": "", "where": None, "job_error": True}
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "task": "worker:0"}'])
def test_what_is_no_assignment_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="assignment"):
        read_assignment(text)


def test_calls_grow_to_the_length_that_is_wanted() -> None:
    step_s, pace, seen = 0.001, Pace.of(None), []
    for _ in range(8):
        seen.append(pace.steps)
        pace = pace.after(pace.steps, pace.steps * step_s)
    assert seen[0] == 1
    assert seen == sorted(seen)
    assert seen[-1] == round(TARGET_S / step_s)
    assert pace.after(pace.steps, 10 * TARGET_S).steps == pace.steps // 10
    assert Pace.of(7).after(7, 100.0).steps == 7


def test_pace_leaves_no_short_call_before_a_station():
    pace = Pace(steps=10, calls=3)
    assert [pace.rounds_of(left) for left in (1, 10, 15, 16, 40)] == [1, 10, 15, 10, 10]
    assert Pace.of(10).rounds_of(15) == 10, "what the job says is not stretched"


class GraphError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (
            ValueError(
                "Exception encountered when calling Reshape.call().\n\n"
                "\x1b[1mThe total size must not change.\x1b[0m\n\nArguments received by Reshape.call():\n  • inputs=…"
            ),
            "ValueError: Exception encountered when calling Reshape.call(). The total size must not change.",
        ),
        (
            GraphError(
                "Graph execution error:\n\nDetected at node m/MatMul defined at (most recent call last):\n"
                '  File "a.py", line 1, in f\n\nMatrix size-incompatible: In[0]: [2,3]\n\t [[{{node m/MatMul}}]]'
            ),
            "GraphError: Matrix size-incompatible: In[0]: [2,3]",
        ),
    ],
)
def test_the_headline_is_the_line_that_says_most(error: Exception, line: str) -> None:
    assert headline(error).removeprefix(f"{__name__}.") == line
