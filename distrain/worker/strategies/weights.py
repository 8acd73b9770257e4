"""Which of a Keras model's weights distrain divides by itself, and along which axis.

Those of layers whose outputs then come about in parts: the units of a Dense, the heads of an attention, the numbers
that an Embedding has for each word. What follows uses the parts where they are, or brings them together.
"""

from __future__ import annotations

import keras

from distrain.worker.strategies.layout import Weight

_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_LAST = {"kernel": -1, "bias": -1, "embeddings": -1}
_HEADS = {"kernel": -2, "bias": -2}
_FROM_HEADS = {"kernel": 0}
"""A projection of all heads' outputs to one, which each head's part adds to."""


def weights_of(model: keras.Model) -> list[Weight]:
    """The model's variables, in their order."""
    axes: dict[int, tuple[str, int]] = {}
    layers = list(model._flatten_layers())
    of_heads = {id(part): layer for layer in layers if isinstance(layer, _ATTENTIONS) for part in layer._layers}
    for layer in layers:
        attention = of_heads.get(id(layer))
        if attention is not None:
            by_name = _FROM_HEADS if layer is attention._output_dense else _HEADS
        elif isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense | keras.layers.Embedding):
            by_name = _LAST
        else:
            continue
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if variable.name in by_name:
                axes[id(variable)] = ((attention or layer).path, by_name[variable.name] % len(variable.shape))
    return [Weight(v.path, tuple(v.shape), *axes.get(id(v), ())) for v in model.variables]
