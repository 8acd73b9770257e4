"""How a task that cannot go on says so: the user's mistakes in a sentence, everything else with its traceback."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from distrain.job.spec import CheckpointSpec, DatasetSpec, Named

from .conftest import wait_until

pytestmark = pytest.mark.tensorflow

DATA = DatasetSpec("user_code:arrays", batch_size=48)
NETWORK = Named("user_code:network")
PARAMETER_SERVER = {"strategy": "ParameterServer", "workers": 2, "ps": 1}

REFUSED = {
    "fewer examples than a batch": (
        {"dataset": DatasetSpec("user_code:arrays", batch_size=500)},
        "480 training examples, fewer than one batch of 500",
    ),
    "unknown length": (
        {"dataset": DatasetSpec("user_code:unknown_length", batch_size=48)},
        "set training.steps_per_epoch",
    ),
    "optimizer": ({"optimizer": Named("adm")}, "Keras has no optimizer named 'adm'; did you mean"),
    "optimizer's argument": ({"optimizer": Named("adam", {"lr": 1.0})}, "optimizer Adam refuses its arguments"),
    "loss": ({"loss": Named("crossentropi")}, "Keras has no loss named 'crossentropi'"),
    "metric": ({"metrics": (Named("acuracy"),)}, "Keras has no metric named 'acuracy'"),
    "schedule": ({"optimizer": Named("SGD", {"learning_rate": {"name": "Decay"}})}, "no learning-rate schedule"),
    "callback": ({"callbacks": (Named("EarlyStoping"),)}, "did you mean 'EarlyStopping'?"),
    "backup": ({"callbacks": (Named("BackupAndRestore", {"backup_dir": "x"}),)}, "checkpoint: {every_epochs: 1}"),
    "a package that is not there": ({"callbacks": (Named("TensorBoard"),)}, "pip install tensorboard"),
    "a dataset that was there before, for other processes": (
        {"dataset": DatasetSpec("user_code:ready_made", batch_size=48), **PARAMETER_SERVER},
        "make a new one in each call, or return arrays",
    ),
    "variables in a dataset, for other processes": (
        {"dataset": DatasetSpec("user_code:with_variables", batch_size=48), **PARAMETER_SERVER},
        "make them once, outside of the function, or return arrays",
    ),
    "no callback": ({"callbacks": (Named("user_code:not_a_callback"),)}, "must give a keras.callbacks.Callback"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_job_at_fault_is_refused_in_a_sentence(case: str, start: Any, make_job: Any) -> None:
    changes, sentence = REFUSED[case]
    run = start(make_job(**{"model": NETWORK, "dataset": DATA, **changes})).wait()
    assert run.chief.status == 2, run.report()
    (failure,) = run.chief.of("failure")
    assert failure["job_error"] is True
    assert sentence in failure["message"]
    assert "\n" not in failure["message"]
    assert f"error: {failure['message']}" in run.chief.text
    assert "Traceback" not in run.chief.text


def test_what_the_users_code_raises_is_told_with_the_place(start: Any, make_job: Any) -> None:
    run = start(make_job(model=NETWORK, dataset=DatasetSpec("user_code:failing_dataset"))).wait()
    assert run.chief.status == 1
    (failure,) = run.chief.of("failure")
    source = Path(__file__).with_name("user_code.py")
    line = source.read_text().splitlines().index('    raise KeyError("no such column")') + 1
    assert failure["where"] == f"{source}:{line}"
    assert failure["message"] == "KeyError: 'no such column'"
    assert failure["job_error"] is False
    assert failure["traceback"].rstrip() in run.chief.text


def test_other_input_than_an_assignment_is_an_error_with_a_traceback(preloaded: Any, tmp_path: Path) -> None:
    task = preloaded.fork("worker:0", '{"format": 1}', {}, tmp_path)
    wait_until(lambda: task.poll() is not None, 20)
    assert task.status == 1
    assert "no assignment" in task.of("failure")[0]["message"]
    assert "Traceback" in task.text


@pytest.mark.parametrize(
    ("strategy", "where", "waiting"),
    [
        ("MultiWorkerMirrored", {"workers": 2}, "worker:1"),
        ("ParameterServer", {"workers": 1, "ps": 1}, "chief:0"),
        ("ParameterServer", {"workers": 1, "ps": 1}, "ps:0"),
    ],
)
def test_sigterm_ends_a_task_that_waits_for_others(
    strategy: str, where: dict[str, int], waiting: str, start: Any, make_job: Any
) -> None:
    run = start(make_job(strategy, **where), only=(waiting,))
    task = run.tasks[waiting]
    wait_until(lambda: any(event["phase"] == "connecting" for event in task.of("phase")), 20, run)
    if waiting == "ps:0":
        wait_until(lambda: bool(task.of("ready")), 20, run)
    asked = time.monotonic()
    task.kill(signal.SIGTERM)
    wait_until(lambda: task.poll() is not None, 1.5, run)
    assert task.status == -signal.SIGTERM
    assert time.monotonic() - asked < 1.0


def test_the_death_of_a_worker_fails_the_other(start: Any, make_job: Any) -> None:
    run = start(
        make_job("MultiWorkerMirrored", workers=2, epochs=100_000, checkpoint=CheckpointSpec(every_epochs=1000))
    )
    wait_until(lambda: bool(run.chief.of("progress")), 60, run)
    run.tasks["worker:1"].kill()
    wait_until(lambda: run.chief.poll() is not None, 20, run)
    assert run.chief.status == 1
    message = run.chief.of("failure")[0]["message"]
    # By our exchange within a call; at a call's end, by TensorFlow's service or by its connection, whichever is first,
    # the latter in the words of gRPC: "recvmsg:Connection reset by peer", "Socket closed".
    of_tensorflow = "UnavailableError: Collective ops is aborted by: "
    assert message == "UnknownError: PeerGone: worker:1 is gone" or message.startswith(of_tensorflow)


def test_a_worker_that_is_stopped_is_missed_by_the_other(start: Any, make_job: Any) -> None:
    run = start(
        make_job("MultiWorkerMirrored", workers=2, epochs=100_000, checkpoint=CheckpointSpec(every_epochs=1000))
    )
    wait_until(lambda: bool(run.chief.of("progress")), 60, run)
    run.tasks["worker:1"].kill(signal.SIGSTOP)
    wait_until(lambda: run.chief.poll() is not None, 30, run)
    message = run.chief.of("failure")[0]["message"]
    # Who finds out depends on what the chief waited in: our exchange within a call, or TensorFlow's at a call's end.
    ours, tensorflows = (
        "PeerGone: worker:1 does not answer",
        "from /job:worker/task:1: The following tasks are unhealthy",
    )
    assert ours in message or tensorflows in message
