"""Models whose weights or activations are hard to divide. Imported by the tasks of tests, by name."""

import keras
from keras import layers


def transformer(input_shape, classes, width=32, heads=4):
    """Rows of pixels are its words."""
    x = keras.Input(input_shape)
    h = layers.Dense(width)(layers.Reshape(input_shape[:2])(x))
    attended = layers.MultiHeadAttention(heads, 32, dropout=0.1)(h, h)
    h = layers.LayerNormalization()(h + layers.Dropout(0.1)(attended))
    h = layers.LayerNormalization()(h + layers.Dense(width)(layers.Dense(8 * width, activation="gelu")(h)))
    return keras.Model(x, layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling1D()(h)))


def convolved(input_shape, classes):
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.SeparableConv2D(16, 3, padding="same", depth_multiplier=2),
            layers.AveragePooling2D(2, strides=1, padding="same"),
            layers.GaussianNoise(0.1),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


@keras.saving.register_keras_serializable("sharded_models")
class Subclassed(keras.Model):
    """Looks its pixels up, and adds losses of its own."""

    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.table = layers.Embedding(64, 64)
        self.hidden = layers.Dense(32, activation="relu", kernel_regularizer="l2")
        self.top = layers.Dense(classes, activation="softmax")

    def call(self, x):
        h = self.table(keras.ops.cast(keras.ops.reshape(x, (-1, 64)) * 60, "int32"))
        h = self.hidden(keras.ops.mean(h, axis=1))
        self.add_loss(0.01 * keras.ops.mean(h**2))
        return self.top(h)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def subclassed(classes):
    return Subclassed(classes)


def recurrent(input_shape, classes):
    return keras.Sequential(
        [layers.Input(input_shape), layers.Reshape(input_shape[:2]), layers.LSTM(8), layers.Dense(classes)]
    )


def flipping(input_shape, classes):
    return keras.Sequential(
        [layers.Input(input_shape), layers.RandomFlip("horizontal"), layers.Flatten(), layers.Dense(classes)]
    )


class Halved(keras.callbacks.Callback):
    """Validates with half of each weight."""

    def on_test_begin(self, logs=None):
        self.weights = self.model.get_weights()
        self.model.set_weights([weight / 2 for weight in self.weights])

    def on_test_end(self, logs=None):
        self.model.set_weights(self.weights)
