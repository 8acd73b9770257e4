"""What callbacks remember comes back, kind by kind; what they were made with does not."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np

from distrain.worker.training.callback_states import CallbackStates


class Callback:
    """As Keras's: it has attributes, and Keras gives it some."""

    def __init__(self, **attributes: Any) -> None:
        self.params = {"epochs": 3}
        self._model = object()
        vars(self).update(attributes)


def after(first: Callback, second: Callback) -> Callback:
    """`second`, with what `first` remembers, once through the file."""
    states = CallbackStates({"0-It": first}, print)
    saved, arrays = through(states)
    later = CallbackStates({"0-It": second}, print)
    later.begin()
    later.restore(saved, arrays)
    return second


def through(states: CallbackStates) -> tuple[Any, Any]:
    saved, arrays = states.saved()
    return json.loads(json.dumps(saved)), arrays


def test_every_kind_of_plain_data_comes_back_as_it_was() -> None:
    memory = {
        "none": None,
        "flag": True,
        "count": 3,
        "big": 2**80,
        "best": float("inf"),
        "text": "ü",
        "nested": [(1, "a"), {"x": [0.1], 2: (3,)}, []],
        "scalar": np.float32(0.1),
        "array": np.arange(6, dtype=np.int8).reshape(2, 3),
        "weights": [np.zeros(2, np.float32), np.array(1.5)],
        "seen": {1, "a", (2, 3)},
        "frozen": {frozenset({1}): frozenset()},
        "recent": deque([1.5, None], maxlen=2),
        "unlimited": deque([{"x"}]),
        "counts": defaultdict(int, {"a": 1}),
        "lists": defaultdict(list, {3: [1]}),
        "strict": defaultdict(None, {}),
    }
    found = vars(after(Callback(**memory), Callback()))
    for name, value in memory.items():
        assert type(found[name]) is type(value), name
        np.testing.assert_equal(found[name], value)
    assert found["scalar"].dtype == np.float32
    assert found["array"].dtype == np.int8
    assert (found["recent"].maxlen, found["unlimited"].maxlen) == (2, None)
    assert (found["counts"]["b"], found["lists"]["b"], found["strict"].default_factory) == (0, [], None)


def test_what_has_not_changed_since_training_began_is_not_saved() -> None:
    callback = Callback(path="log-worker-0", wait=0, seen=[1], weights=np.ones(3), nan=float("nan"))
    states = CallbackStates({"0-It": callback}, print)
    states.begin()
    assert states.saved() == ({}, {})
    callback.seen.append(2)
    callback.weights[1] = 5
    callback.wait = 0.0
    saved, arrays = states.saved()
    assert saved == {"0-It": {"seen": [1, 2], "weights": {"array": "callbacks/0"}, "wait": 0.0}}
    callback.weights[0] = 7
    assert arrays["callbacks/0"].tolist() == [1, 5, 1], "a view of what goes on changing"


def test_what_is_not_plain_data_is_left_alone() -> None:
    mine = sorted
    second = Callback(file=mine, mixed=[1, mine])
    after(Callback(file=print, mixed=[2, print], fine=1), second)
    assert (second.file, second.mixed, second.fine) == (mine, [1, mine], 1)
    assert second.params == {"epochs": 3}


def test_a_container_that_is_left_out_is_told_once_if_it_changes() -> None:
    told: list[str] = []
    callback = Callback(given=[sorted], made=Counter(), odd=defaultdict(lambda: 3), fine=[], function=print)
    states = CallbackStates({"0-It": callback}, told.append)
    states.begin()
    callback.fine.append(1)
    states.saved()
    assert told == [], "what the constructor was given is the job's"
    callback.made["a"] += 1
    callback.odd["b"] += 1
    callback.late = OrderedDict(x=1)
    for _ in range(2):
        states.saved()
    assert [sentence.split(",")[0] for sentence in told] == [
        f"checkpoints leave out {attribute} of the callback Callback" for attribute in ("made", "odd", "late")
    ]


def test_keras_negates_min_delta_again_after_a_restart() -> None:
    first = Callback(monitor_op=None, min_delta=0.1, best=None)
    states = CallbackStates({"0-It": first}, print)
    states.begin()
    first.monitor_op, first.min_delta, first.best = np.less, -0.1, 3.0
    saved, _ = states.saved()
    assert saved == {"0-It": {"best": 3.0}}


def test_a_callback_of_another_name_gets_nothing() -> None:
    one, other = Callback(wait=3), Callback(wait=0)
    saved, arrays = CallbackStates({"1-It": one}, print).saved()
    CallbackStates({"0-It": other}, print).restore(saved, arrays)
    assert other.wait == 0
