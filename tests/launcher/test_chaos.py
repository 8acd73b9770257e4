"""Injuries are decided from events and a seed: when, to whom, and what is told of each in the end."""

from __future__ import annotations

from typing import Any

import pytest

from distrain.launcher.chaos import Chaos, Injury, Kind, Plan, Wish, verdict
from distrain.launcher.events import Event

KILL_WORKERS = (Wish(Kind.KILL, "worker"),)
HOSTS = {"chief:0": "a", "worker:0": "a", "worker:1": "b", "ps:0": "local"}
GAP_S = (5.0, 15.0)
"""Between injuries, with every_s=10."""


class Story:
    """A run as it is told to `chaos`, on a clock of its own."""

    def __init__(self, *wishes: Wish, speaks: bool = True, **plan: Any) -> None:
        self.chaos = Chaos(Plan(wishes or KILL_WORKERS, every_s=10, **plan), far=("a", "b"), speaks=speaks)
        self.time = 100.0
        self.attempt = 1
        self.done: list[Injury] = []
        self.tell("run_started")

    def tell(self, kind: str, task: str | None = None, host: str | None = None, **data: Any) -> Story:
        if task is not None and host is None:
            host = HOSTS[task]
        self.chaos.event(Event(self.time, kind, self.attempt, task, host, data))
        return self

    def after(self, seconds: float) -> Story:
        """Time passes, with a look every tenth of a second."""
        for _ in range(round(seconds * 10)):
            self.time += 0.1
            self.done += self.chaos.due(self.time)
        return self

    def started(self, *tasks: str) -> Story:
        self.tell("attempt_started")
        for task in tasks:
            self.tell("task_started", task)
        for task in tasks:
            self.tell("ready", task)
        return self

    def training(self, *tasks: str) -> Story:
        self.started(*(tasks or ("worker:0", "worker:1")))
        return self.progress(1)

    def progress(self, step: int) -> Story:
        return self.tell("progress", "worker:0", step=step)

    def until_injured(self, most_s: float = GAP_S[1]) -> Story:
        before = len(self.done)
        for _ in range(round(most_s * 10) + 1):
            if len(self.done) > before:
                return self
            self.after(0.1)
        raise AssertionError(f"not injured within {most_s} s")

    def fails(self, task: str) -> Story:
        self.tell("task_exited", task, expected=False)
        return self.tell("task_failed", task, message="was killed by SIGKILL")

    def restarts(self, *, step: int = 0, from_step: int = 0) -> Story:
        self.tell("restarting", step=step, from_step=from_step)
        self.attempt += 1
        return self


def test_nothing_is_injured_before_every_task_is_ready_and_has_made_a_step() -> None:
    story = Story()
    assert story.after(100).done == []
    story.tell("attempt_started").tell("task_started", "worker:0").tell("task_started", "worker:1")
    story.tell("ready", "worker:0").progress(1)
    assert story.after(100).done == []
    story.tell("ready", "worker:1")
    began = story.time
    story.until_injured()
    assert GAP_S[0] <= story.time - began <= GAP_S[1] + 0.2


def test_injuries_come_as_often_as_they_are_wanted_on_average() -> None:
    story = Story(Wish(Kind.FILL, "local"), lasting_s=0.0)
    story.training(*HOSTS)
    for _ in range(10_000):
        story.after(0.1).progress(2)
    assert 85 <= len(story.done) <= 115
    assert all(case.is_over for case in story.chaos.cases[:-1])


def test_the_same_seed_chooses_alike_and_another_does_not() -> None:
    def chosen(seed: int) -> list[tuple[str, float]]:
        story = Story(Wish(Kind.KILL), Wish(Kind.STOP, "worker"), seed=seed, while_recovering=True)
        story.training(*HOSTS).after(300)
        return [(str(case.injury), case.time) for case in story.chaos.cases]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert {name for name, _ in chosen(1)} == {
        "kill chief:0",
        "kill ps:0",
        "kill worker:0",
        "kill worker:1",
        "stop worker:0",
        "stop worker:1",
    }


@pytest.mark.parametrize(
    ("wish", "possible"),
    [
        (Wish(Kind.KILL, "worker:1"), {"kill worker:1"}),
        (Wish(Kind.KILL, "ps"), {"kill ps:0"}),
        (Wish(Kind.STOP, "chief"), {"stop chief:0"}),
        (Wish(Kind.CUT), {"cut a", "cut b"}),
        (Wish(Kind.FILL), {"fill a", "fill b", "fill local"}),
        (Wish(Kind.SLOW, "b", 50.0), {"slow b by 50 ms"}),
        (Wish(Kind.KILL, "evaluator"), set()),
        (Wish(Kind.CUT, "local"), set()),
    ],
)
def test_who_is_meant(wish: Wish, possible: set[str]) -> None:
    story = Story(wish, while_recovering=True).training(*HOSTS).after(600)
    assert {str(injury) for injury in story.done} == possible


def test_what_an_agent_is_told() -> None:
    order = Injury(Kind.STOP, "a", ("worker:0",), 3.0).order(None)
    assert (order.kind, order.tasks, order.seconds, order.folder) == ("stop", ("worker:0",), 3.0, "")
    order = Injury(Kind.SLOW, "a", (), 3.0, 50.0).order("/runs/x")
    assert (order.kind, order.tasks, order.amount, order.folder) == ("slow", (), 50.0, "/runs/x")


def test_a_run_that_recovers_is_left_alone_until_it_trains() -> None:
    story = Story().training().until_injured()
    story.fails("worker:1").after(50)
    story.restarts().started("worker:0", "worker:1").after(50)
    assert len(story.done) == 1
    story.progress(1).until_injured()
    assert len(story.done) == 2


def test_while_recovering_it_is_not_left_alone() -> None:
    story = Story(while_recovering=True).training().until_injured().fails("worker:1").restarts()
    story.tell("attempt_started").tell("task_started", "worker:0").after(15)
    assert len(story.done) >= 2


def test_no_more_than_wanted() -> None:
    assert len(Story(Wish(Kind.KILL), times=3, while_recovering=True).training().after(300).done) == 3
    story = Story(Wish(Kind.KILL), for_s=40, while_recovering=True).training().after(300)
    assert 2 <= len(story.done) <= 8
    assert all(case.time <= 140.1 for case in story.chaos.cases)


@pytest.mark.parametrize("kind", ["stopping", "run_ended"])
def test_a_run_that_ends_is_left_alone(kind: str) -> None:
    assert Story(while_recovering=True).training().tell(kind).after(100).done == []


def test_a_run_whose_chief_is_done_is_left_alone() -> None:
    assert Story().training().tell("done", "worker:0", steps=3).after(100).done == []


def test_a_program_that_tells_nothing_of_steps_trains_when_it_runs() -> None:
    story = Story(speaks=False)
    story.tell("attempt_started").tell("task_started", "worker:0").until_injured()
    assert story.done


# ---- what is told of each


def test_a_restart_is_measured_from_the_injury_on() -> None:
    story = Story().training().until_injured()
    story.time += 0.2
    story.progress(70).fails(story.done[0].tasks[0])
    story.time += 1
    story.restarts(step=73, from_step=50).started("worker:0", "worker:1")
    story.time += 2
    story.progress(51)
    (case,) = story.chaos.cases
    assert (case.noticed, case.failed, case.steps_lost) == (f"{case.injury.tasks[0]}: was killed by SIGKILL", True, 23)
    assert (case.detected_s, case.resumed_s) == (pytest.approx(0.2), pytest.approx(3.2))
    assert verdict(story.chaos.cases, {"state": "succeeded"}) == (
        "the run survived 1 injury: noticed within 0.2 s, training again within 3.2 s, 23 steps done twice"
    )


def test_a_task_that_is_started_again_alone_is_whole_when_it_is_ready() -> None:
    story = Story(Wish(Kind.KILL, "worker:1")).training(*HOSTS).until_injured()
    story.tell("task_exited", "worker:1", expected=True)
    story.time += 0.5
    story.tell("respawning", "worker:1", message="was killed by SIGKILL").progress(9)
    assert not story.chaos.cases[0].is_over
    story.after(30)
    assert len(story.done) == 1, "the run is not whole"
    story.tell("task_started", "worker:1").progress(10).tell("ready", "worker:1")
    (case,) = story.chaos.cases
    assert (case.detected_s, case.resumed_s, case.steps_lost) == (pytest.approx(0.5), pytest.approx(30.5), 0)


def test_what_did_no_harm_is_over_when_it_is_undone() -> None:
    story = Story(Wish(Kind.STOP, "worker:1"), lasting_s=3.0).training().until_injured()
    story.after(2).progress(5)
    assert not story.chaos.cases[0].is_over
    story.after(3).progress(6)
    (case,) = story.chaos.cases
    assert (case.noticed, case.detected_s, case.resumed_s) == (None, None, 0.0)
    assert verdict((case,), {"state": "succeeded"}) == "the run survived 1 injury without a failure"


def test_a_warning_is_taken_for_notice_and_a_failure_for_a_better_one() -> None:
    story = Story(Wish(Kind.FILL, "local")).training(*HOSTS).until_injured()
    story.time += 1
    story.tell("note", "worker:0", level="info", message="all is well")
    story.tell("note", "worker:0", level="warning", message="the disk is full")
    story.tell("note", "worker:0", level="warning", message="it still is")
    assert story.chaos.cases[0].noticed == "worker:0: the disk is full"
    assert not story.chaos.cases[0].failed
    story.time += 1
    story.fails("worker:0")
    assert (story.chaos.cases[0].failed, story.chaos.cases[0].detected_s) == (True, pytest.approx(2))


def test_a_kill_is_not_over_because_others_still_train() -> None:
    story = Story().training().until_injured().after(5).progress(8)
    assert not story.chaos.cases[0].is_over


def test_what_the_place_does_not_allow_is_said_and_the_rest_goes_on() -> None:
    story = Story(Wish(Kind.SLOW, "a", 50.0)).training(*HOSTS).until_injured()
    story.tell("harmed", host="b", injury="slow", error="of somebody else")
    story.tell("harmed", host="a", injury="slow", error="only root can slow a network")
    (case,) = story.chaos.cases
    assert (case.refused, case.noticed) == (True, "only root can slow a network")
    assert verdict(story.chaos.cases, {"state": "succeeded"}) == "nothing was injured: only root can slow a network"
    story.until_injured().tell("harmed", host="a", injury="slow", error=None)
    assert not story.chaos.cases[1].is_over


def test_the_verdict_of_a_run_that_did_not_survive() -> None:
    story = Story().training().until_injured().fails("worker:0")
    failed = {"state": "failed", "first_failure": {"message": "worker:0 was killed by SIGKILL"}}
    assert verdict(story.chaos.cases, failed) == (
        f"the run did not survive 1 injury; the last injury was: {story.done[0]}; worker:0 was killed by SIGKILL"
    )
    assert verdict(story.chaos.cases, {"state": "stopped"}) == (
        "the run ended before it had recovered from the last of 1 injury"
    )
    assert verdict((), {"state": "succeeded"}) == "nothing was injured, since it did not train for long enough"
