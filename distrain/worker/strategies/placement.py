"""Which parameter server holds which variable. TensorFlow takes them in turns; here the emptiest one comes next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


class BySize:
    """Gives each new variable of `strategy` to the server with the fewest bytes so far, of `servers`.

    What an optimizer remembers of a weight lies with the weight, as TensorFlow has it, and counts as well.
    """

    def __init__(self, strategy: tf.distribute.ParameterServerStrategy, servers: int) -> None:
        self._turns = strategy.extended
        self._bytes = [0] * servers

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Within, and within the strategy's own scope, variables are placed so."""
        with tf.variable_creator_scope(self._create):
            yield

    def _create(self, create: Callable[..., Any], **kwargs: Any) -> Any:
        # The server whose turn it is, is this number modulo theirs.
        self._turns._variable_count = self._bytes.index(min(self._bytes))
        variable = create(**kwargs)
        server = tf.DeviceSpec.from_string(variable.device).task
        self._bytes[server] += variable.shape.num_elements() * variable.dtype.size
        return variable
