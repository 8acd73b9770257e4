"""What a user's own module may hold. Tasks under test import it along `import_paths`."""

import functools
import json
import os
import time

import keras
import numpy as np
import tensorflow as tf


def numbers(size, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 8)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int32)


def arrays(train=480, validation=103):
    return numbers(train, 1), numbers(validation, 2)


def diverging():
    x, y = numbers(480, 1)
    y = y.astype(np.float32)
    y[6 * 48 + 5] = np.inf
    return x, y


def line():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1), keras.layers.Flatten()])


def streams(train=480, validation=103):
    return tuple(
        tf.data.Dataset.from_tensor_slices(numbers(size, seed)) for size, seed in ((train, 1), (validation, 2))
    )


def unknown_length():
    return tf.data.Dataset.from_tensor_slices(numbers(480, 1)).filter(lambda x, y: True)


@functools.cache
def ready_made():
    return streams()


def with_variables():
    scale = keras.layers.Normalization()
    train, validation = streams()
    scale.adapt(numbers(480, 1)[0])
    return train.map(lambda x, y: (scale(x[tf.newaxis])[0], y)), validation


def generated():
    def rows():
        yield from zip(*numbers(480, 1), strict=True)

    signature = tf.TensorSpec([8]), tf.TensorSpec([], tf.int32)
    train = tf.data.Dataset.from_generator(rows, output_signature=signature)
    return train.apply(tf.data.experimental.assert_cardinality(480)), numbers(103, 2)


def failing_dataset():
    raise KeyError("no such column")


def network(dropout=0.0, normalize=False, l2=0.0):
    regularizer = keras.regularizers.L2(l2) if l2 else None
    layers = [keras.layers.Dense(16, "relu", kernel_regularizer=regularizer)]
    if normalize:
        layers.append(keras.layers.BatchNormalization())
    if dropout:
        layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(2, "softmax")])


class OwnStep(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, activation="softmax")

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        logs = super().train_step(data)
        return {**logs, "mine": tf.constant(7.0)}


def own_step():
    return OwnStep()


class Recorder(keras.callbacks.Callback):
    """Writes down every call of it, a line each, in the task's working directory."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.stop_after = stop_after

    def _write(self, what, index, logs):
        task = os.environ["TEST_TASK"]
        with open(f"calls-{task}.jsonl", "a") as file:
            file.write(json.dumps([what, index, {k: float(v) for k, v in (logs or {}).items()}]) + "\n")

    def on_train_begin(self, logs=None):
        self._write("train_begin", None, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._write("epoch_end", epoch, logs)
        if self.stop_after is not None and epoch + 1 >= self.stop_after:
            self.model.stop_training = True


class EachStep(Recorder):
    def on_train_batch_end(self, batch, logs=None):
        self._write("batch_end", batch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._write("batch_begin", batch, logs)

    def on_test_begin(self, logs=None):
        self._write("test_begin", None, logs)

    def on_test_end(self, logs=None):
        self._write("test_end", None, logs)


class Slowly(keras.callbacks.Callback):
    """Has each step take its time, so that there is a middle to be killed in."""

    def __init__(self, step_s):
        super().__init__()
        self.step_s = step_s

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.step_s)


class Memory(keras.callbacks.Callback):
    """Remembers, in all kinds of attributes, and writes down at the end what it remembers."""

    def __init__(self, own=None):
        super().__init__()
        self.own = own or os.environ["TEST_TASK"]
        self.begun = []
        self.logs = {}
        self.best = (np.float32(np.inf), None)
        self.weights = None

    def on_train_begin(self, logs=None):
        self.trains = True

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.logs[epoch] = logs["loss"]
        if logs["loss"] < self.best[0]:
            self.best = (np.float32(logs["loss"]), {"epoch": epoch})
            self.weights = self.model.get_weights()[:1]

    def on_train_end(self, logs=None):
        with open(f"memory-{os.environ['TEST_TASK']}", "w") as file:
            weights = [array.tolist() for array in self.weights]
            file.write(repr((self.own, self.begun, self.logs, self.best, weights)))


def not_a_callback():
    return 3


class Seeds(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        states = [v.numpy().tolist() for v in self.model.non_trainable_variables if "seed" in v.path]
        with open(f"seeds-{os.environ['TEST_TASK']}", "w") as file:
            json.dump(states, file)


def halving():
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)


class Halves(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5 ** keras.ops.cast(step, "float32")

    def get_config(self):
        return {"start": self.start}


class Unsaved(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1


def halving_sgd():
    return keras.optimizers.SGD(Halves(0.8))


def decaying_sgd():
    return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.8, 1, 0.5))


def inspected():
    import ctypes
    import sys

    signal = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)
    with open("/proc/self/comm") as file:
        name = file.read().strip()
    facts = {
        "ids": f"{os.getpid()} {os.getppid()} {os.getpgid(0)} {os.getsid(0)}",
        "argv": sys.argv,
        "name": name,
        "cwd": os.getcwd(),
        "task": os.environ["TEST_TASK"],
        "descriptors": inherited_descriptors(),
        "dies_with_parent": signal.value,
    }
    for key, value in facts.items():
        print(f"{key}={value}")
    return arrays()


def inherited_descriptors():
    """Those that lead out of this process: TensorFlow's own anonymous ones, and files that are read, do not."""
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if number <= 3 or target.startswith(("socket:", "pipe:", "/memfd")):
            found.append(number)
    return found


class Poisons(keras.callbacks.Callback):
    """A weight of the first layer is none after the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            weights = self.model.trainable_variables[0]
            weights.assign(np.full(weights.shape, np.nan))


def squares(train=192, validation=48):
    """Small coloured images, noise but for a bright quarter, which is the class."""

    def some(size, seed):
        random = np.random.default_rng(seed)
        y = random.integers(0, 4, size).astype(np.int32)
        quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((16, 16)))[np.newaxis, ..., np.newaxis]
        return (random.random((size, 32, 32, 3)) + (quarters == y[:, None, None, None])).astype(np.float32), y

    return some(train, 1), some(validation, 2)


def two_questions():
    """Two inputs and two answers, by name: whether the sum of all is positive, and that sum."""

    def some(size, seed):
        x, y = numbers(size, seed)
        return {"left": x[:, :3], "right": x[:, 3:]}, {"sign": y, "total": x.sum(axis=1, keepdims=True)}

    return {"train": some(480, 1), "validation": some(103, 2)}


def two_answers(named=True, l2=0.0):
    left, right = keras.Input((3,), name="left"), keras.Input((5,), name="right")
    regularizer = keras.regularizers.L2(l2) if l2 else None
    x = keras.layers.Dense(16, "relu", kernel_regularizer=regularizer)(keras.layers.Concatenate()([left, right]))
    sign = keras.layers.Dense(2, "softmax", name="sign")(x)
    total = keras.layers.Dense(1, name="total")(x)
    outputs = {"sign": sign, "total": total} if named else [sign, total]
    return keras.Model({"left": left, "right": right}, outputs)


class Residual(keras.Model):
    """Subclassed, with layers in a list, dropout and a loss of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(8, "tanh") for _ in range(2)]
        self.normalization = keras.layers.LayerNormalization()
        self.head = keras.layers.Dense(2, "softmax")

    def call(self, x, training=None):
        for block in self.blocks:
            x = x + block(x)
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(x)))
        return self.head(self.normalization(x))


def residual():
    return Residual()


class ByHand(keras.Model):
    """A train_step as Keras's guides write it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(16, "relu")
        self.head = keras.layers.Dense(2, "softmax")

    def call(self, x):
        return self.head(self.dense(x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * tf.distribute.get_replica_context().num_replicas_in_sync)
        return {metric.name: metric.result() for metric in self.metrics}


def by_hand():
    return ByHand()


def normalized(synchronized=False):
    layers = [
        keras.layers.Dense(6, "relu"),
        keras.layers.BatchNormalization(momentum=0.8, synchronized=synchronized),
        keras.layers.Dense(2, "softmax"),
    ]
    return keras.Sequential([keras.Input((8,)), *layers])


def sentences():
    """Token numbers, 0 where a sentence is over. In each batch of 48 the long ones come first, and then the short."""
    random = np.random.default_rng(5)
    length = np.where(np.arange(480) % 48 < 24, random.integers(6, 9, 480), random.integers(1, 3, 480))
    x = np.where(np.arange(8) < length[:, None], random.integers(1, 20, [480, 8]), 0)
    return x, (x > 9).astype(np.int32)


class Penalized(keras.layers.Layer):
    """Adds a loss of what it sees, which each replica sees another part of."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x):
        self.add_loss(50.0 * keras.ops.mean(keras.ops.square(x)))
        return x


def tagger():
    """Tells of every token of a sentence whether it is a large number; what is over does not count."""
    embedding = keras.layers.Embedding(20, 8, mask_zero=True, embeddings_regularizer=keras.regularizers.L2(0.001))
    layers = [embedding, Penalized(), keras.layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((8,), dtype="int32"), *layers])


def mean_loss(y, y_pred):
    """In two ways, of which Keras itself divides one by the number of replicas."""
    own = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, y_pred))
    return 0.5 * own + 0.5 * keras.losses.SparseCategoricalCrossentropy()(y, y_pred)


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return mean_loss(y, y_pred)


def own_loss():
    inputs = keras.Input((8,))
    return OwnLoss(inputs, keras.layers.Dense(2, "softmax")(keras.layers.Dense(16, "relu")(inputs)))


def weighted_mean():
    return keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")


class Seen(keras.metrics.Metric):
    """How many examples there were: its result is its variable itself."""

    def __init__(self, name="seen"):
        super().__init__(name=name)
        self.seen = self.add_variable((), "zeros", name="seen")

    def update_state(self, y, y_pred, sample_weight=None):
        self.seen.assign_add(tf.cast(tf.shape(y_pred)[0], tf.float32))

    def result(self):
        return self.seen
