"""What of a Keras model or optimizer everybody here asks for, and Keras has no name for."""

from __future__ import annotations

import keras


def has_own_train_step(model: keras.Model) -> bool:
    """Whether the model's class trains in a way of its own, in place of Keras's."""
    return type(model).train_step is not keras.Model.train_step


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The one that updates weights: `optimizer` itself, or what it scales the loss for."""
    return getattr(optimizer, "inner_optimizer", optimizer)
