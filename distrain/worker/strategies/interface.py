"""What the training loop asks of a strategy. One file per strategy beside this one implements it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from distrain.worker.datasets import Dataset
from distrain.worker.feed import Order, Pipeline


@dataclass(frozen=True, eq=False)
class Plan:
    """What is trained, as far as a strategy must know. `steps_per_call` None: it paces itself."""

    model: keras.Model
    dataset: Dataset
    order: Order
    pipeline: Pipeline
    jit_compile: bool
    steps_per_call: int | None


@dataclass(frozen=True, eq=False)
class Call:
    """What one call from the host did: `steps` steps, whose losses over the global batch are `losses`, float32[steps].

    `metrics` are those of the epoch so far. `stop`: some task of the cluster wants to stop, and all of them know.
    """

    steps: int
    losses: np.ndarray
    metrics: Mapping[str, Any]
    stop: bool


class Strategy(Protocol):
    """Where and how steps run. Every method but `scope` is called at the same point by all tasks that train."""

    replicas: int

    def scope(self) -> AbstractContextManager[Any]:
        """Variables made within belong to the strategy."""

    def bind(self, plan: Plan) -> None:
        """Take what is to be trained. Called once, when the model is compiled and built."""

    def run(self, first: int, last: int, wants_stop: Callable[[], bool]) -> Iterator[Call]:
        """Train the steps from `first` up to `last`, not included, all of one epoch; they are done when this ends.

        `first` at an epoch's start sets the metrics back. It may end early after a Call that says `stop`.
        """

    def evaluate(self) -> Mapping[str, Any]:
        """Metrics over every validation example, each seen exactly once."""

    def agree(self, wants_stop: bool) -> bool:
        """Whether any task wants to stop."""

    def finish(self) -> None:
        """Wait until no other task needs this one. Called last, by all tasks that train."""
