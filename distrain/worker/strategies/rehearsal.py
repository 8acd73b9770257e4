"""What a step that does not count needs, and says: a batch of nothing, and which layer DTensor cannot divide."""

from __future__ import annotations

import re
from typing import Any

import keras
import tensorflow as tf

from distrain.worker.datasets import InMemory, Stream
from distrain.worker.input.feed import shapes
from distrain.worker.input.pipeline import Pipeline
from distrain.worker.refusal import Refusal

_OPERATION = re.compile(r"'tf\.(\w+)' op|operation: %\S+ = \"tf\.(\w+)\"")
_OF_LISTS = ("TensorList", "EmptyTensorList", "While")
"""How the names of operations begin by which recurrent layers loop over time."""


def zeros(examples: InMemory | Stream, count: int, strategy: str) -> tuple[Any, ...]:
    """`count` prepared examples of zeros, with weights if the examples have some.

    Raises:
        Refusal: they have no known shape.
    """
    specs = shapes(examples)
    if any(None in spec.shape.as_list()[1:] for spec in tf.nest.flatten(specs)):
        raise Refusal(
            f"strategy {strategy} needs examples of one known shape: pad or crop them, or use another strategy"
        )
    x, y = tf.nest.map_structure(lambda spec: tf.zeros([count, *spec.shape[1:]], spec.dtype), specs)
    if isinstance(examples, InMemory):
        has_weights = examples.w is not None
    else:
        has_weights = len(Pipeline(cache=False, prefetch=None).examples(examples).element_spec) == 3
    return (x, y, tf.ones([count])) if has_weights else (x, y)


def refuse(error: tf.errors.OpError, model: keras.Model, graph: tf.Graph, strategy: str) -> None:
    """Say what of `model`, whose step `graph` is, DTensor could not divide, if that is what `error` is about.

    Raises:
        Refusal: it is.
    """
    found = _OPERATION.search(str(error))
    if found is None:
        return
    operation = found[1] or found[2]
    if operation.startswith(_OF_LISTS):
        way_out = "give a recurrent layer unroll: True"
    elif "does not implement" in str(error):
        way_out = "replace the layer"
    else:
        way_out = "leave its weights whole in strategy.layout"
    layer = _layer_of(operation, model, graph)
    raise Refusal(
        f"strategy {strategy} needs DTensor, which cannot divide {operation}"
        f"{f' in layer {layer}' if layer else ''}: {way_out}, or use another strategy"
    ) from error


def _layer_of(operation: str, model: keras.Model, graph: tf.Graph) -> str | None:
    """The outermost layer that is no model, by the names that Keras gives to operations."""
    layers = model._flatten_layers(include_self=False)
    names = {layer.name for layer in layers if not isinstance(layer, keras.Model)}
    scopes = (scope for op in graph.get_operations() if op.type == operation for scope in op.name.split("/"))
    spellings = (name for scope in scopes for name in (scope, re.sub(r"_\d+$", "", scope)))
    return next((name for name in spellings if name in names), None)
