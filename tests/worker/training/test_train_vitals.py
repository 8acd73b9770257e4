"""Tasks that train, seen from outside: where they are, how busy, and how one of them is missed and comes back."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distrain.job.spec import JobSpec, Named

from .conftest import Cluster, Task, tasks_of, wait_until
from .uneven import SLOW_S

pytestmark = pytest.mark.tensorflow

NEIGHBOURS = {"one_host": True}
RING = {"one_host": False}


class Run(Cluster):
    """A cluster whose tasks can be started anew."""

    def __init__(self, preloaded: Any, spec: JobSpec, folder: Path, changes: dict[str, Any]) -> None:
        super().__init__("vitals", folder, 1)
        self._preloaded = preloaded
        self._given = {
            name: (json.dumps({**json.loads(text), **changes}), env) for name, text, env in tasks_of(spec, folder)
        }
        for name in self._given:
            self.start(name)

    def start(self, name: str) -> Task:
        self.tasks[name] = self._preloaded.fork(name, *self._given[name], self.run_dir)
        return self.tasks[name]

    def until(self, condition: Callable[[], Any], deadline_s: float = 60) -> None:
        wait_until(lambda: bool(condition()), deadline_s, self)


@pytest.fixture
def run(preloaded: Any, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def start(spec: JobSpec, **changes: Any) -> Run:
        started.append(Run(preloaded, spec, tmp_path, changes))
        return started[-1]

    yield start
    for one in started:
        one.end()


def stacks(task: Task) -> str:
    return os.pread(task.stacks, 1 << 20, 0).decode()


@pytest.mark.parametrize("changes", [NEIGHBOURS, RING], ids=["neighbours", "ring"])
def test_where_tasks_are_that_wait_for_one_that_is_stopped(changes: Any, run: Any, make_job: Any) -> None:
    training = run(make_job("MultiWorkerMirrored", workers=2, epochs=100_000), **changes)
    waiting, stopped = training.tasks.values()
    training.until(lambda: waiting.of("progress") and stopped.of("progress"))
    assert stacks(waiting) == stacks(stopped) == "\n"
    stopped.kill(signal.SIGSTOP)
    training.until(lambda: any(pulse["step"] > 0 and pulse["for_s"] > 1 for pulse in waiting.of("pulse")))
    assert waiting.of("pulse")[-1]["doing"] == "step"
    steps = waiting.of("pulse")[-1]["step"]
    for task in (waiting, stopped):
        task.kill(signal.SIGUSR2)
        task.kill(signal.SIGCONT)
        training.until(lambda task=task: "(most recent call first)" in stacks(task) and "in main\n" in stacks(task))
        assert "synchronous.py" in stacks(task) or "loop.py" in stacks(task)
    assert "synchronous.py" in stacks(waiting), "it waits in the strategy"
    training.until(lambda: waiting.of("progress")[-1]["step"] > steps)
    assert training.chief.poll() is None, "and all go on"


@pytest.mark.parametrize("changes", [NEIGHBOURS, RING], ids=["neighbours", "ring"])
def test_who_keeps_the_others_waiting_is_the_one_that_is_busy(changes: Any, run: Any, make_job: Any) -> None:
    spec = make_job("MultiWorkerMirrored", model=Named("uneven:network"), workers=2, epochs=100_000, batch_size=16)
    training = run(spec, **changes)
    quick, slow = training.tasks.values()
    training.until(lambda: len(quick.of("progress")) > 5 and len(slow.of("progress")) > 5)
    # On cores that others use as well, both of them take longer: what counts is how they compare.
    quick_s, slow_s = (statistics.median(told["busy_s"] for told in task.of("progress")) for task in (quick, slow))
    assert slow_s >= SLOW_S
    assert slow_s > 1.5 * quick_s
    assert quick.of("progress")[-1]["step_s"] >= SLOW_S, "it has to wait"


@pytest.mark.parametrize("changes", [NEIGHBOURS, RING], ids=["neighbours", "ring"])
def test_all_leave_together_when_one_is_asked_to(changes: Any, run: Any, make_job: Any) -> None:
    training = run(make_job("MultiWorkerMirrored", workers=2, epochs=100_000), **changes)
    training.until(lambda: all(task.of("progress") for task in training.tasks.values()))
    training.tasks["worker:1"].kill(signal.SIGTERM)
    training.until(lambda: all(task.poll() is not None for task in training.tasks.values()))
    for task in training.tasks.values():
        assert task.status == 42, training.report()
        assert task.of("preempted")[0]["step"] == training.chief.of("preempted")[0]["step"] > 0
        assert not task.of("failure")
        assert "Traceback" not in task.text


def test_a_worker_that_dies_and_is_started_anew_is_taken_back_while_training_goes_on(run: Any, make_job: Any) -> None:
    pause = Named("uneven:Pause", {"seconds": 0.02})
    spec = make_job("ParameterServer", workers=2, ps=1, epochs=2, steps_per_epoch=200, callbacks=(pause,))
    training = run(spec)

    def told_by_chief(after: float, of: str | None = None) -> list[dict[str, Any]]:
        seen = zip(list(training.chief.events), list(training.chief.seen_at), strict=False)
        told = [event for event, at in seen if event["kind"] == "progress" and at > after]
        return [event for event in told if of is None or of in event["of"]]

    training.until(lambda: told_by_chief(0, "worker:1"))
    step_s, steps = (told_by_chief(0, "worker:1")[-1]["of"]["worker:1"][part] for part in ("step_s", "steps"))
    assert step_s > 0
    assert steps > 0
    training.tasks["worker:1"].kill()
    training.until(lambda: training.tasks["worker:1"].poll() is not None)
    dead_at = time.monotonic()
    training.until(lambda: len(told_by_chief(dead_at)) > 3)
    assert told_by_chief(dead_at)[-1]["step"] > told_by_chief(0)[0]["step"], "the other works on"
    again = training.start("worker:1")
    training.until(lambda: again.of("ready"))
    ready_at = time.monotonic()
    training.until(lambda: told_by_chief(ready_at, "worker:1") or training.chief.poll() is not None)
    assert told_by_chief(ready_at, "worker:1"), "it takes steps again"
    training.until(lambda: training.chief.poll() is not None)
    assert training.chief.status == 0, training.report()
    assert training.chief.of("done")[0]["steps"] == 400
    assert training.tasks["ps:0"].of("pulse")[-1]["doing"] == "serving"


@pytest.mark.parametrize("server", ["ps:0", "ps:1"])
def test_the_end_of_a_parameter_server_is_the_chiefs_at_once_and_told_by_its_name(
    server: str, run: Any, make_job: Any
) -> None:
    training = run(make_job("ParameterServer", workers=2, ps=2, epochs=100_000))
    training.until(lambda: training.chief.of("progress"))
    training.tasks[server].kill()
    training.until(lambda: training.chief.poll() is not None, 20)
    assert training.chief.status == 1
    assert training.chief.of("failure")[0]["message"] == f"PeerGone: {server} is gone"


@pytest.mark.parametrize("name", ["worker:0", "ps:0"])
def test_sigterm_is_the_end_of_a_worker_and_a_server(name: str, run: Any, make_job: Any) -> None:
    training = run(make_job("ParameterServer", workers=2, ps=1, epochs=100_000))
    training.until(lambda: training.chief.of("progress"))
    task = training.tasks[name]
    task.kill(signal.SIGTERM)
    training.until(lambda: task.poll() is not None, 10)
    assert task.status == -signal.SIGTERM
