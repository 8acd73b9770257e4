"""From a job's `model` to a Keras model: the built-in networks, `keras.applications`, and `package.module:function`.

Owns which names there are and what each takes. Does not compile or train. Keras is imported when a model is built, so
that this module costs nothing before that.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distrain.worker.datasets.examples import Dataset, describe
from distrain.worker.names import check_arguments, parameters, resolve
from distrain.worker.refusal import Refusal

if TYPE_CHECKING:
    import keras

_APPLICATIONS = "keras.applications."
_PIXEL_SCALE = 4.0
_SMALLEST_SIDE = 6
"""A 5x5 convolution and a 2x2 pool need as many rows and columns to leave something."""


def build_model(spec: Mapping[str, Any], dataset: Dataset) -> keras.Model:
    """Build what the job's `model` names, in the strategy scope of the caller; its variables exist afterwards wherever
    the dataset has an `input_shape` without gaps.

    `spec` has `name` and `args`. What `args` leaves out is taken from the dataset: the shape of an example, without the
    batch axis, and the number of classes.

    Raises:
        Refusal: there is no such model, it cannot be built with these arguments or for this dataset, or a user's
            function returned something else than a Keras 3 model.
        Exception: whatever a user's function raises.
    """
    name, args = spec["name"], dict(spec.get("args") or {})
    if ":" in name:
        return _from_function(name, args, dataset)
    if name.startswith(_APPLICATIONS):
        return _application(name.removeprefix(_APPLICATIONS), args, dataset)
    if name not in _BUILT_IN:
        nearest = sorted(_BUILT_IN, key=lambda known: -difflib.SequenceMatcher(None, name, known).ratio())
        raise Refusal(
            f"there is no model {name!r}: there are {', '.join(nearest)}, keras.applications.<Name>, and "
            "package.module:function"
        )
    builder = _BUILT_IN[name]
    facts = {"input_shape": _input_shape(name, dataset), "classes": args.pop("classes", dataset.classes)}
    check_arguments(builder, f"model {name}", {**facts, **args})
    if facts["classes"] is None:
        raise Refusal(f"model {name} needs the number of classes, which the dataset does not tell: give args.classes")
    _whole_number(facts["classes"], f"model {name}: classes")
    return builder(**facts, **args)


def cnn(
    input_shape: tuple[int, ...], classes: int, filters: int = 32, dense: int = 128, dropout: float = 0.0
) -> keras.Model:
    """The usual small network for small images: a 3x3 convolution, a 2x2 pool, one dense layer, softmax.

    Pixels of 0 to 1 are mostly dark in such images: scaled up first, they suit the usual initial weights, and an epoch
    teaches more.
    `input_shape` is (rows, columns) or (rows, columns, channels). `dropout` acts before both dense layers.
    """
    from keras import Sequential, layers

    if len(input_shape) not in (2, 3):
        raise Refusal(
            f"model cnn needs images (rows x columns, or with channels), but an example is {_spell(input_shape)}: "
            "name another model, such as mlp"
        )
    if min(input_shape[:2]) < _SMALLEST_SIDE:
        raise Refusal(
            f"model cnn needs images of at least {_SMALLEST_SIDE}x{_SMALLEST_SIDE}, but these are "
            f"{_spell(input_shape[:2])}: name another model, such as mlp"
        )
    _whole_number(filters, "model cnn: filters")
    _whole_number(dense, "model cnn: dense")
    stack = [
        layers.Input(input_shape),
        *([layers.Reshape((*input_shape, 1))] if len(input_shape) == 2 else []),
        layers.Rescaling(_PIXEL_SCALE),
        layers.Conv2D(filters, 5, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        *_dropout(dropout, "cnn"),
        layers.Dense(dense, activation="relu"),
        *_dropout(dropout, "cnn"),
        _softmax(classes),
    ]
    return Sequential(stack, name="cnn")


def mlp(
    input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (128,), dropout: float = 0.0
) -> keras.Model:
    """Dense layers of `hidden` units, each followed by `dropout`, then softmax. Examples of any shape are flattened."""
    from keras import Sequential, layers

    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise Refusal(f"model mlp: hidden is {hidden!r}: give a list of layer sizes, such as [128, 64]")
    stack = [layers.Input(input_shape), layers.Flatten()]
    for units in hidden:
        _whole_number(units, "model mlp: each of hidden")
        stack += [layers.Dense(units, activation="relu"), *_dropout(dropout, "mlp")]
    return Sequential([*stack, _softmax(classes)], name="mlp")


def transformer(
    input_shape: tuple[int, ...],
    classes: int,
    layers: int = 2,
    heads: int = 4,
    width: int = 64,
    dropout: float = 0.0,
    vocabulary: int | None = None,
) -> keras.Model:
    """An encoder of `layers` blocks of attention with `heads` heads, `width` numbers a place, whose mean is classified.

    `input_shape` is (places, features); an image, (rows, columns) or (rows, columns, channels), is a sequence of rows.
    With `vocabulary` it is (places,), of whole numbers below that.
    """
    from keras import Input, Model, ops
    from keras import layers as of_keras

    _check_transformer(input_shape, layers, heads, width, vocabulary)
    inputs = Input(input_shape, dtype=None if vocabulary is None else "int32")
    if vocabulary is not None:
        x = of_keras.Embedding(vocabulary, width)(inputs)
    else:
        x = of_keras.Reshape((input_shape[0], math.prod(input_shape[1:])))(inputs)
    # Its bias is of each place: it is how the model knows one from another.
    x = of_keras.EinsumDense("bpf,fw->bpw", (input_shape[0], width), bias_axes="pw", bias_initializer="random_normal")(
        x
    )
    for _ in range(layers):
        y = of_keras.LayerNormalization()(x)
        x = x + of_keras.MultiHeadAttention(heads, width // heads, dropout=_share(dropout, "transformer"))(y, y)
        y = of_keras.Dense(4 * width, activation="gelu")(of_keras.LayerNormalization()(x))
        y = of_keras.Dense(width)(y)
        for layer in _dropout(dropout, "transformer"):
            y = layer(y)
        x = x + y
    x = ops.mean(of_keras.LayerNormalization()(x), axis=1)
    return Model(inputs, _softmax(classes)(x), name="transformer")


def _check_transformer(
    input_shape: tuple[int, ...], layers: int, heads: int, width: int, vocabulary: int | None
) -> None:
    for value, name in ((layers, "layers"), (heads, "heads"), (width, "width")):
        _whole_number(value, f"model transformer: {name}")
    if width % heads:
        raise Refusal(
            f"model transformer: width is {width}, which {heads} heads cannot share equally: "
            f"make it a multiple of {heads}"
        )
    example = f"an example is {_spell(input_shape)}"
    if vocabulary is None and len(input_shape) not in (2, 3):
        raise Refusal(
            f"model transformer needs sequences or images, but {example}: give args.vocabulary if these are tokens, "
            "or name another model, such as mlp"
        )
    if vocabulary is not None:
        _whole_number(vocabulary, "model transformer: vocabulary")
        if len(input_shape) != 1:
            raise Refusal(f"model transformer: a vocabulary is for tokens, but {example}: leave it out")


_BUILT_IN: Mapping[str, Callable[..., Any]] = {"cnn": cnn, "mlp": mlp, "transformer": transformer}


def _softmax(classes: int) -> Any:
    from keras import layers

    # In float32 whatever the precision of the rest: probabilities near 0 and 1 do not fit 16 bits.
    return layers.Dense(classes, activation="softmax", dtype="float32")


def _dropout(rate: float, model: str) -> list[Any]:
    from keras import layers

    return [layers.Dropout(rate)] if _share(rate, model) else []


def _share(rate: float, model: str) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise Refusal(f"model {model}: dropout is {rate!r}: give a number from 0 to below 1")
    return rate


def _whole_number(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refusal(f"{what} is {value!r}: give a whole number of at least 1")


def _application(application: str, args: dict[str, Any], dataset: Dataset) -> keras.Model:
    """A network of keras.applications with fresh weights, unless `args.weights` says otherwise.

    With `include_top: false` its features are averaged over the image and followed by a softmax layer of our own, so
    that pretrained weights serve any number of classes.
    """
    import keras

    name = f"{_APPLICATIONS}{application}"
    valid = [known for known in dir(keras.applications) if known[0].isupper()]
    if application not in valid:
        near = difflib.get_close_matches(application, valid, n=3) or valid
        raise Refusal(f"there is no {name}: there is {', '.join(near)}{'' if near is valid else ' and others'}")
    builder = getattr(keras.applications, application)
    check_arguments(builder, name, args)
    shape = _input_shape(name, dataset)
    if len(shape) != 3:
        raise Refusal(f"{name} needs images (rows x columns x channels), but an example is {_spell(shape)}")
    classes = args.get("classes", dataset.classes)
    if classes is None:
        raise Refusal(f"{name} needs the number of classes, which the dataset does not tell: give args.classes")
    settings = {"weights": None, "input_shape": shape, "classes": classes, **args}
    own_top = settings.get("include_top", True) is False
    if own_top:
        settings["pooling"] = settings.get("pooling") or "avg"
    try:
        model = builder(**settings)
    except (ValueError, TypeError) as error:
        raise Refusal(
            f"{name} cannot be built for examples of {_spell(shape)} with args {args}: {_first_line(error)}"
        ) from error
    except Exception as error:
        if type(error) is Exception:  # Keras's own when pretrained weights cannot be fetched
            raise Refusal(
                f"{name} could not fetch its weights: {_first_line(error)}; or set args.weights to null"
            ) from error
        raise
    return keras.Sequential([keras.Input(shape), model, _softmax(classes)]) if own_top else model


def _from_function(name: str, args: dict[str, Any], dataset: Dataset) -> keras.Model:
    import keras

    function = resolve(name)
    takes = parameters(function) or {}
    for fact in ("input_shape", "classes"):
        if fact in takes and fact not in args:
            args[fact] = getattr(dataset, fact)
    check_arguments(function, name, args)
    model = function(**args)
    if any(kind.__module__.partition(".")[0] == "tf_keras" for kind in type(model).__mro__):
        raise Refusal(f"{name} returned a tf_keras (Keras 2) model: build it with Keras 3, `import keras`")
    if not isinstance(model, keras.Model):
        raise Refusal(f"{name} returned {describe(model)}: it must return a keras.Model")
    shape = dataset.input_shape
    if not model.built and shape is not None and None not in shape:
        model(keras.KerasTensor((None, *shape)))  # a symbolic call, which makes the variables and computes nothing
    return model


def _input_shape(name: str, dataset: Dataset) -> tuple[int, ...]:
    shape = dataset.input_shape
    if shape is None or None in shape:
        what = "is not a single array" if shape is None else f"is {_spell(shape)}"
        raise Refusal(f"model {name} needs examples of one known shape, but x {what}: name a function of your own")
    return shape


def _spell(shape: Sequence[int | None]) -> str:
    return "x".join("?" if length is None else str(length) for length in shape) or "a single number"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
