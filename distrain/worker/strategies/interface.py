"""What the training loop asks of a strategy. One file per strategy beside this one implements it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from distrain.worker.datasets import Dataset
from distrain.worker.input.feed import Order
from distrain.worker.input.pipeline import Pipeline


class PeerGone(ConnectionError):
    """A task that this one needs has ended. The name is what the launcher knows such a consequence by."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is trained, as far as a strategy must know. `steps_per_call` None: it paces itself. `class_weight`: what the
    examples of a class count in the loss of training; None: all the same.
    """

    model: keras.Model
    dataset: Dataset
    order: Order
    pipeline: Pipeline
    jit_compile: bool
    steps_per_call: int | None
    class_weight: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """What one call from the host did: `steps` steps, whose losses over the global batch are `losses`, float32[steps].

    `metrics` are those of the epoch so far, made of `rows`, float64[replicas, n]: what each replica's metrics hold.
    `stop`: some task of the cluster wants to stop, and all of them know. `busy_s`: seconds a step that this task was
    busy itself, waiting for others left out; None where that cannot be told. `of`: for tasks that a chief speaks for,
    by name: seconds a step, and how many steps.
    """

    steps: int
    losses: np.ndarray
    metrics: Mapping[str, Any]
    stop: bool
    rows: np.ndarray
    busy_s: float | None = None
    of: Mapping[str, tuple[float, int]] = field(default_factory=dict)


class Strategy(Protocol):
    """Where and how steps run. Every method but `scope` is called at the same point by all tasks that train."""

    replicas: int
    variables: Sequence[keras.Variable]
    """What it remembers itself beside the model, which checkpoints keep along with it. Made by `bind`."""

    def scope(self) -> AbstractContextManager[Any]:
        """Variables made within belong to the strategy."""

    def bind(self, plan: Plan) -> None:
        """Take what is to be trained. Called once, when the model is compiled and built."""

    def restore(self, rows: np.ndarray | None, own: np.ndarray | None) -> None:
        """Make the replicas what they were. Called once, after `bind`, when the model's variables hold what they are
        to hold; those by which layers draw random numbers, what the first replica had.

        `rows` are a Call's, for a start in the middle of an epoch; for another number of replicas, the first one gets
        all. None: zeros. `own` is what `own_rows` gave; for another number of replicas, or None, it changes nothing.

        Raises:
            Refusal: `rows` are those of other metrics.
        """

    def own_rows(self) -> np.ndarray | None:
        """float64[replicas, n]: those variables of each replica that are its own. None: all replicas hold the same."""

    def to_model(self) -> None:
        """Have the model's variables hold what training has come to, before anybody looks at them."""

    def from_model(self) -> None:
        """Go on with what the model's variables hold: somebody may have changed them since `to_model`."""

    def run(self, first: int, last: int, wants_stop: Callable[[], bool]) -> Iterator[Call]:
        """Train the steps from `first` up to `last`, not included, all of one epoch; they are done when this ends.

        `first` at an epoch's start sets the metrics back. It may end early after a Call that says `stop`.
        """

    def evaluate(self) -> Mapping[str, Any]:
        """Metrics over every validation example, each seen exactly once."""

    def agree(self, wish: int) -> int:
        """The sum of all tasks' wishes: 0 if there is none; the wish itself if one task alone can have it."""

    def finish(self) -> None:
        """Wait until no other task needs this one. Called last, by all tasks that train."""
