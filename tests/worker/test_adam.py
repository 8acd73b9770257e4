"""Adam's update by the kernel is Keras's own."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.tensorflow


def steps(fused: bool, name: str, **arguments: Any) -> list[Any]:
    """The weights after some steps, and the optimizer's state."""
    import keras
    import numpy as np
    import tensorflow as tf

    from distrain.worker.model import adam

    random = np.random.default_rng(1)
    weights = [keras.Variable(random.standard_normal(shape).astype("float32")) for shape in ((6, 5), (5,), ())]
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
    optimizer = getattr(keras.optimizers, name)(schedule, **arguments)
    optimizer.build(weights)
    if fused:
        adam.fuse(optimizer)
        assert ("_distributed_tf_update_step" in vars(optimizer)) != arguments.get("amsgrad", False)

    @tf.function
    def step(gradients: Any) -> None:
        optimizer.apply(gradients, weights)

    for number in range(8):
        gradients = [tf.constant(random.standard_normal(weight.shape).astype("float32")) for weight in weights]
        if number % 2 and not optimizer.gradient_accumulation_steps:  # as an embedding's: some rows only
            gradients[0] = tf.IndexedSlices(gradients[0][:2], tf.constant([4, 1]), tf.constant([6, 5]))
        step(gradients)
    return [np.asarray(variable) for variable in (*weights, *optimizer.variables)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adam", {}),
        ("Adam", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "global_clipnorm": 0.5}),
        ("AdamW", {"weight_decay": 0.1}),
        ("Adam", {"use_ema": True, "ema_momentum": 0.9}),
        ("Adam", {"amsgrad": True}),
        ("Adam", {"gradient_accumulation_steps": 2}),
    ],
)
def test_the_kernel_gives_keras_numbers(name: str, arguments: dict[str, Any]) -> None:
    import numpy as np

    ours, theirs = steps(True, name, **arguments), steps(False, name, **arguments)
    for own, keras_own in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, keras_own, rtol=5e-5, atol=5e-6)


def test_other_optimizers_are_left_alone() -> None:
    import keras

    from distrain.worker.model import adam

    class Own(keras.optimizers.Adam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            raise AssertionError

    for optimizer in (keras.optimizers.SGD(0.1), keras.optimizers.Nadam(), keras.optimizers.Adamax(), Own()):
        adam.fuse(optimizer)
        assert "_distributed_tf_update_step" not in vars(optimizer)
