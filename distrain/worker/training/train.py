"""A job's training: strategy, dataset and model are made, the loop runs, and the chief leaves the model.

`train` carries out a job; `train_model` is for whoever has made the model. What happens at each step is `loop`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras

from distrain.worker.assignment import Assignment
from distrain.worker.datasets import Dataset, faults, load_dataset
from distrain.worker.input.feed import Order, shapes
from distrain.worker.input.pipeline import Pipeline
from distrain.worker.model import rate
from distrain.worker.model.keras_parts import has_own_train_step
from distrain.worker.model.models import build_model
from distrain.worker.model.recipe import compile_model, losses_fit
from distrain.worker.model.step import build
from distrain.worker.refusal import Ending, Refusal
from distrain.worker.runtime import configure
from distrain.worker.strategies import open_strategy
from distrain.worker.strategies.interface import Plan, Strategy
from distrain.worker.telemetry import Events
from distrain.worker.training import callbacks as callbacks_of
from distrain.worker.training import resume
from distrain.worker.training.checkpoint import save_model
from distrain.worker.training.loop import Loop, NotFinite, Result
from distrain.worker.vitals import Preempted, Vitals


def train(assignment: Assignment, events: Events, vitals: Vitals) -> None:
    """Train the job's model; the chief leaves it in the run directory.

    Raises:
        Refusal: the job is at fault.
        Preempted: somebody asked to leave, and what a restart needs is on the disk.
        Ending: the loss is not finite, the checkpoint to go on from is damaged, or the model cannot be written.
    """
    training = assignment.training
    configure(assignment)
    saved = resume.load(assignment.resume) if assignment.resume else None
    callbacks = callbacks_of.make_callbacks(training["callbacks"], chief=assignment.chief)
    events.phase("connecting")
    strategy = open_strategy(assignment, events)  # before the user's code, whose first op would fix the devices
    events.phase("loading data")
    dataset = load_dataset(assignment.job["dataset"], events)
    order = make_order(dataset, assignment, events if assignment.chief else Events(None))
    events.phase("building the model")
    with strategy.scope():
        model = build_model(assignment.job["model"], dataset)
        compile_model(model, training, assignment.batch_size)
        with losses_fit():
            build(model, *shapes(dataset.train))
    rate.check_callbacks(model.optimizer, callbacks.values())
    vitals.watch()
    try:
        result = train_model(assignment, events, vitals, strategy, model, dataset, order, callbacks, saved)
    except Preempted as preempted:
        strategy.finish()
        events.send("preempted", step=preempted.step, asked=vitals.asked_to_leave)
        raise
    except NotFinite:
        strategy.finish()  # until the chief's checkpoints are on the disk: the first to go may take it along
        raise
    if assignment.chief:
        events.phase("saving")
        try:
            events.send("model", path=save_model(model, assignment.run_dir))
        except OSError as error:
            raise Ending(f"{error}; mend that, and go on with `distrain run --resume last`", "file") from error
        events.send(
            "done",
            epochs=result.epochs,
            steps=result.steps,
            examples_per_s=result.examples_per_s,
            metrics=result.metrics,
        )
    else:
        events.send("done")
    strategy.finish()


def train_model(
    assignment: Assignment,
    events: Events,
    vitals: Vitals,
    strategy: Strategy,
    model: keras.Model,
    dataset: Dataset,
    order: Order,
    callbacks: Mapping[str, keras.callbacks.Callback],
    saved: resume.Saved | None = None,
) -> Result:
    """Train `model`, which was compiled and built in the scope of `strategy`, from the beginning or from what was
    `saved`. `strategy.finish` is left to the caller.

    Raises:
        Refusal: the strategy cannot train this model or dataset, or what was saved is of something else.
        Preempted, NotFinite: as `Loop.run`.
    """
    training = assignment.training
    steps_per_call = training["steps_per_call"]
    if callbacks_of.wants_every_step(callbacks.values()):
        if steps_per_call not in (None, 1):
            events.note("a callback is called at every step: training.steps_per_call is taken for 1", level="warning")
        steps_per_call = 1
    averages = assignment.job["strategy"]["name"] == "ParameterAveraging"
    if has_own_train_step(model) and strategy.replicas > 1 and not averages:
        events.note(
            "the model has a train_step of its own: its gradients are summed over the replicas, so they have to be of "
            "what compute_loss gives, which Keras divides by their number"
        )
    pipeline = Pipeline.of(assignment)
    pipeline.check(dataset.train, assignment.workers)
    strategy.bind(
        Plan(
            model,
            dataset,
            order,
            pipeline,
            training["jit_compile"],
            steps_per_call,
            training["class_weight"],
        )
    )
    events.ready(parameters=model.count_params(), replicas=strategy.replicas)
    with faults.named(dataset, events):
        return Loop(assignment, events, vitals, strategy, model, dataset, order, callbacks, saved).run()


def make_order(dataset: Dataset, assignment: Assignment, events: Events) -> Order:
    """How the examples make up epochs.

    Raises:
        Refusal: fewer examples than a batch, or a stream of unknown length and no `steps_per_epoch`.
    """
    training, batch_size = assignment.training, assignment.batch_size
    size, steps = dataset.train.size, training["steps_per_epoch"]
    if size is None:
        if steps is None:
            raise Refusal("the dataset does not say how many examples it has: set training.steps_per_epoch")
        size = steps * batch_size
    if size < batch_size:
        raise Refusal(
            f"the dataset has {size} training examples, fewer than one batch of {batch_size}: "
            f"set dataset.batch_size to {size} or less"
        )
    if steps is None:
        steps = size // batch_size
        if left := size % batch_size:
            events.note(
                f"each epoch leaves out {left} of {size} training examples, which do not fill a batch of {batch_size}"
            )
    return Order(size, batch_size, steps, assignment.seed, training["shuffle"])
