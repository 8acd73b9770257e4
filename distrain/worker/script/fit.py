"""`distrain.fit`: distrain's own training loop, called from a user's script in place of Keras's `model.fit`.

Owns how a script's cluster and arguments become what the loop is given: the strategy follows from TF_CONFIG. The loop
itself is `training`'s. Nothing is written, a loss that is not finite is the script's affair, as is SIGTERM; metrics and
progress are told as those of a job are.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import Dataset, npz
from distrain.worker.datasets.returned import dataset_from
from distrain.worker.input.feed import shapes
from distrain.worker.model.step import build, release
from distrain.worker.refusal import Refusal
from distrain.worker.script.report import events_of_this_process, vitals_of_this_process
from distrain.worker.strategies import open_strategy, parameter_server
from distrain.worker.strategies.interface import Strategy
from distrain.worker.telemetry import Events
from distrain.worker.training import callbacks as callbacks_of
from distrain.worker.training.train import make_order, train_model

_STRATEGY: Mapping[str, Any] = {
    "implementation": "auto",
    "pack_bytes": None,
    "compression": "none",
    "accumulate": 1,
    "placement": "round_robin",
}
_DATASET: Mapping[str, Any] = {
    "shard": "auto",
    "parallel_reads": None,
    "parallel_calls": None,
    "deterministic": True,
}
_TRAINS_ALONE: Mapping[str, Any] = {"cluster": {"worker": [""]}, "task": {"type": "worker", "index": 0}}


def fit(
    make_model: Callable[[], keras.Model],
    dataset: Any,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    validate: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    steps_per_call: int | None = None,
    jit_compile: bool = False,
) -> keras.callbacks.History:
    """Train a model under the strategy that suits the cluster this task is in.

    No cluster: on this process's device. Several workers: MultiWorkerMirroredStrategy. With parameter servers:
    ParameterServerStrategy, where the chief trains, and workers and parameter servers serve it and never return.
    Every task calls this alike, before it runs any other operation of TensorFlow's.

    Args:
        make_model: makes the compiled model. It is called in the strategy's scope, so that the weights are the
            strategy's. Its `loss`, `optimizer` and `metrics` are used, its `train_step` too.
        dataset: unbatched examples: NumPy arrays `(x, y)`, or `((x, y), (x_val, y_val))`, or a function that returns
            such or `tf.data.Dataset`s of `(x, y)`, or the path of an `.npz` file with `x_train` and `y_train`, and
            `x_test` and `y_test` if there are any.
        batch_size: examples a step, over the whole cluster.
        steps_per_epoch: as many as the dataset has whole batches, if not given.
        shuffle, seed: the order of examples is drawn from the seed, and is the same whatever the number of workers.
        validate: at the end of each epoch, where the dataset has examples for it.
        callbacks: of Keras; those that write run on the chief alone.
        steps_per_call: steps between two looks at the metrics; about a third of a second's worth, if not given.
        jit_compile: compile the step with XLA.

    Returns:
        What `model.fit` returns: `history.history`, a list for each metric, and `history.model`, which is trained.

    Raises:
        ValueError: the arguments, the model or the cluster do not allow it; the sentence says what to do.
    """
    training = {
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "shuffle": shuffle,
        "seed": seed,
        "validation": int(validate),
        "steps_per_call": steps_per_call,
        "jit_compile": jit_compile,
        "cache": False,
        "prefetch": None,
        "scale_learning_rate": None,
        "warmup_steps": 0,
        "class_weight": None,
    }
    events = events_of_this_process()
    try:
        _check(make_model, epochs, batch_size, callbacks)
        assignment = _assignment(training, batch_size)
        if assignment.job["strategy"]["name"] == "ParameterServer" and not assignment.chief:
            parameter_server.serve(assignment, events, vitals_of_this_process())
        return _fit(assignment, events, make_model, dataset, callbacks)
    except Refusal as refusal:
        raise ValueError(str(refusal)) from None


def _fit(
    assignment: Assignment,
    events: Events,
    make_model: Callable[[], keras.Model],
    dataset: Any,
    callbacks: Sequence[keras.callbacks.Callback],
) -> keras.callbacks.History:
    strategy = _opened(assignment, events)
    examples = _dataset(dataset)
    order = make_order(examples, assignment, events if assignment.chief else Events(None))
    if order.batch_size % strategy.replicas:
        raise Refusal(
            f"batch_size is {order.batch_size}, which {strategy.replicas} workers cannot share equally: "
            f"make it a multiple of {strategy.replicas}"
        )
    with strategy.scope():
        model = make_model()
        if not isinstance(model, keras.Model) or not model.compiled or model.optimizer is None:
            raise Refusal(f"make_model returned {model!r}: it must return a keras.Model on which compile() was called")
        build(model, *shapes(examples.train))
    here = callbacks_of.of_this_task(callbacks, chief=assignment.chief)
    history = keras.callbacks.History()
    try:
        train_model(
            assignment, events, vitals_of_this_process(), strategy, model, examples, order, {**here, "History": history}
        )
        strategy.finish()
    finally:
        release(model)
    return history


def _check(make_model: Any, epochs: int, batch_size: int, callbacks: Sequence[Any]) -> None:
    if keras.config.backend() != "tensorflow":
        raise Refusal(
            f"distrain.fit trains with Keras on TensorFlow, but its backend here is {keras.config.backend()}: "
            "set KERAS_BACKEND=tensorflow"
        )
    if isinstance(make_model, keras.Model):
        raise Refusal(
            "distrain.fit was given a model, which belongs to no strategy: give it the function that makes and "
            "compiles the model, as in distrain.fit(make_model, (x, y))"
        )
    if not callable(make_model):
        raise Refusal(f"make_model is {make_model!r}: it must be a function that returns a compiled keras.Model")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise Refusal(f"{name} is {value!r}: it must be a whole number of at least 1")
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        raise Refusal("the callback BackupAndRestore has no effect in distrain.fit: leave it out")


def _assignment(training: Mapping[str, Any], batch_size: int) -> Assignment:
    """What the launcher would have a job's worker do, from what the environment says of the cluster."""
    config = json.loads(os.environ.get("TF_CONFIG") or "{}") or _TRAINS_ALONE
    cluster, task = config["cluster"], config["task"]
    role, index = str(task["type"]), int(task["index"])
    chiefs, workers, servers = (len(cluster.get(name, ())) for name in ("chief", "worker", "ps"))
    if servers and not chiefs:
        raise Refusal(
            "the cluster has parameter servers but no chief to hand out their work: give it one, "
            "as in distrain launch --chief HOST --workers … --ps …"
        )
    if servers:
        strategy = "ParameterServer"
    else:
        strategy = "MultiWorkerMirrored" if chiefs + workers > 1 else "OneDevice"
        # For TensorFlow too, a chief is the first of the workers.
        role, index = "worker", index + (chiefs if role == "worker" else 0)
        workers += chiefs
    neighbours = int(os.environ.get("DISTRAIN_LOCAL_WORLD_SIZE", "1"))
    return Assignment(
        task=f"{role}:{index}",
        chief=role == "chief" or (not servers and index == 0),
        run=os.environ.get("DISTRAIN_RUN", ""),
        run_dir=Path.cwd(),
        attempt=int(os.environ.get("DISTRAIN_ATTEMPT", "1")),
        threads=max(1, len(os.sched_getaffinity(0)) // neighbours),
        one_host=False,  # sums through shared memory are for one model a process
        import_paths=(),
        job={
            "strategy": {"name": strategy, **_STRATEGY},
            "cluster": {"workers": workers, "devices_per_worker": 1, "evaluators": 0, "data_workers": 0},
            "dataset": {"batch_size": batch_size, **_DATASET},
            "training": training,
            "checkpoint": None,
            "watchdog": {"nan": "ignore"},
        },
    )


_strategies: list[Strategy] = []
"""The one that this process has opened: TensorFlow joins a cluster once."""


def _opened(assignment: Assignment, events: Events) -> Strategy:
    if not _strategies:
        events.phase("connecting")
        try:
            _strategies.append(open_strategy(assignment, events))
        except RuntimeError as error:
            raise Refusal(
                "distrain.fit must be called before anything else of TensorFlow runs in this process, for only then "
                f"can it join the others: make tensors and models in make_model and the dataset's function ({error})"
            ) from error
    return _strategies[0]


def _dataset(dataset: Any) -> Dataset:
    if isinstance(dataset, str | os.PathLike):
        return npz.load(os.fspath(dataset))
    return dataset_from(dataset if callable(dataset) else functools.partial(lambda value: value, dataset), "dataset")
