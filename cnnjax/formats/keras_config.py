"""What a Keras model's config says, checked against the networks of this package; no layer is made and no code run.

All generations since Keras 2.0 are read, sequential and functional, with models as layers of models. Everything that a
config says is honoured or refused by the layer's name: an option that is not known here is refused unless it is off.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.normalize import Normalizer, caffe, identity, per_channel
from cnnjax.formats import keras_legacy
from cnnjax.formats.keras_graph import chain
from cnnjax.formats.keras_nodes import layer_name
from cnnjax.formats.keras_preprocessing import BGR, RGB, is_number
from cnnjax.formats.lazy_tensors import Refused

COMMON = (
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "seed", "kernel_initializer", "bias_initializer",
    "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint",
)  # fmt: skip
"""Options that change nothing in a trained network."""
TRAINING_ONLY = (
    "Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise", "ActivityRegularization",
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness",
    "RandomShear", "RandomHue", "RandomSaturation", "RandomGrayscale", "RandomErasing", "RandomColorJitter",
)  # fmt: skip
"""Layers that do nothing but in training."""
CODE = ("Lambda", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")
DTYPES = ("float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")


class Step(NamedTuple):
    """One layer in the order of computation. problem: why it is refused, or ""."""

    kind: str
    name: str
    problem: str = ""
    values: tuple[Any, ...] = ()


class Config(NamedTuple):
    """A config that one of this package's networks can honour.

    blocks: how many convolutions there are before each pooling. convolutions, dense: the layers' names in order.
    head_problem: why what comes after the last pooling is not the network's own head, or "". head: the names of all
    layers there. channels_first: whether the first dense layer takes its inputs by channel, row and column. normalizer:
    that of a Rescaling layer, if there is one. image_size: (height, width), if the config names it.
    """

    blocks: tuple[int, ...]
    convolutions: list[str]
    dense: list[str]
    head_problem: str
    head: list[str]
    channels_first: bool
    normalizer: Normalizer | None
    image_size: tuple[int, int] | None


def read(config: Mapping[str, Any]) -> Config:
    """Check a model's config. Raises Refused for a layer, or an option of one, that no network here has."""
    try:
        layers = list(chain(config))
        steps = [step for layer in layers for step in _steps(layer)]
        formats = {layer["config"]["data_format"] for layer in layers if _is_spatial(layer)}
        size = _image_size(config, layers, "channels_first" in formats)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(f"its config is not one of Keras' ({type(error).__name__}: {str(error)[:80]})") from error
    if len(formats) > 1:
        raise Refused("its layers have different data formats, channels_first and channels_last")
    normalizer, steps = _normalizer(steps)
    blocks, body, head = _split(steps)
    for step in body:
        if step.problem:
            raise Refused(step.problem)
    _check_edges(body, len(blocks), size)
    if not blocks:
        raise Refused(next((step.problem for step in head if step.problem), "its config has no convolutions"))
    problem = _head_problem(head)
    flatten = next((step.values[0] for step in head if step.kind == "flatten"), "channels_last")
    return Config(
        blocks,
        [step.name for step in body if step.kind == "conv"],
        [step.name for step in head if step.kind == "dense"],
        problem,
        list(dict.fromkeys(step.name for step in head)),
        # Flatten itself turns channels to the end if it is told that they come first.
        "channels_first" in formats and flatten != "channels_first",
        normalizer,
        size,
    )


def _is_spatial(layer: Mapping[str, Any]) -> bool:
    return layer.get("class_name") in ("Conv2D", "MaxPooling2D") and "data_format" in layer["config"]


def _steps(layer: Mapping[str, Any]) -> Iterator[Step]:
    """What a layer does, its activation apart."""
    kind, own = str(layer.get("class_name")), dict(layer["config"])
    name = layer_name(layer)
    where = f"its layer {name!r}"
    if kind in ("InputLayer", *TRAINING_ONLY):
        return
    if problem := _dtype_problem(own.get("dtype")):
        yield Step("other", name, f"{where} computes in {problem}, which is not done here")
    elif kind == "Convolution2D":  # its kernels may be turned or not, and nothing in such a file tells
        again = keras_legacy.AGAIN
        yield Step(
            "other", name, f"{where} is one of Keras 1, whose files do not say what wrote their kernels: {again}"
        )
    elif kind in CODE:
        yield Step("other", name, f"{where} is a {kind}, which is code: nothing was executed")
    elif kind not in OPTIONS:
        yield Step("other", name, f"{where} is a {kind}, which neither a VGG nor a SmallCNN has")
    else:
        step, allowed = OPTIONS[kind]
        checked = _checked(step, name, kind, own, allowed)
        if step != "activation" or checked.problem:
            yield checked
        if "activation" in own:
            yield from _activation(name, own["activation"])


OPTIONS: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "Conv2D": ("conv", {
        "filters": (), "kernel_size": ([3, 3], 3), "strides": ([1, 1], 1), "padding": ("same",),
        "dilation_rate": ([1, 1], 1, None),
        "groups": (1, None), "use_bias": (True,), "data_format": ("channels_last", "channels_first"), "activation": (),
    }),
    "MaxPooling2D": ("pool", {
        "pool_size": ([2, 2], 2), "strides": ([2, 2], 2, None), "padding": ("valid", "same"),
        "data_format": ("channels_last", "channels_first"),
    }),
    "Dense": ("dense", {"units": (), "use_bias": (True,), "activation": ()}),
    "Flatten": ("flatten", {"data_format": ("channels_last", "channels_first", None)}),
    "Activation": ("activation", {"activation": ()}),
    "ReLU": ("relu", {"max_value": (None,), "negative_slope": (0, None), "threshold": (0, None)}),
    "Softmax": ("softmax", {"axis": (-1, 1, [-1])}),
    "Rescaling": ("rescaling", {"scale": (), "offset": (), "order": ()}),
    "GlobalAveragePooling2D": ("mean", {"data_format": (), "keepdims": (False, None)}),
    "GlobalMaxPooling2D": ("max", {"data_format": (), "keepdims": (False, None)}),
}  # fmt: skip
"""By Keras' name of a layer: what it is here, and of each option the values that are honoured; () of those that any."""


def _checked(step: str, name: str, kind: str, own: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> Step:
    for option, value in own.items():
        plain = _plain(value)
        if option in COMMON or (option in allowed and not allowed[option]):
            continue
        if option not in allowed and plain not in (None, False, "", [], {}):
            return Step(
                step, name, f"its layer {name!r} ({kind}) has {option}={_brief(value)}, which is not known here"
            )
        if option in allowed and plain not in allowed[option]:
            usual = _brief(allowed[option][0])
            return Step(step, name, f"its layer {name!r} ({kind}) has {option}={_brief(value)}, not {usual}")
    values = {
        "flatten": (own.get("data_format"),), "dense": (own.get("units"),),
        "rescaling": (own.get("scale"), own.get("offset", 0.0), own.get("order", RGB)), "pool": (own.get("padding"),),
    }  # fmt: skip
    return Step(step, name, "", values.get(step, ()))


def _plain(value: Any) -> Any:
    """A value without what tells tuples from lists, and arrays from numbers."""
    if isinstance(value, dict) and value.get("class_name") in ("__tuple__", "__numpy__", "__ndarray__"):
        inner = value.get("items", value.get("config", {}).get("value") if "config" in value else value.get("value"))
        return _plain(inner)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value


def _brief(value: Any) -> str:
    text = str(_plain(value))
    return text if len(text) <= 40 else f"{text[:40]}…"


def _activation(name: str, value: Any) -> Iterator[Step]:
    """An activation as a text, as an object of Keras 2 or 3, or as a layer."""
    inner = value.get("config") if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(inner, dict) and "class_name" in value:
        kind = str(value["class_name"])
        layer = {"class_name": kind, "config": {"name": name, **inner}}
        named = str(inner.get("name", kind)) if kind not in OPTIONS else ""
        yield from _activation(name, named.lower()) if named and kind == "function" else _steps(layer)
        return
    text = inner if isinstance(inner, str) else value
    if text is None or text == "linear":
        return
    if text in ("relu", "sigmoid", "softmax"):
        yield Step(str(text), name)
        return
    yield Step("other", name, f"its layer {name!r} has the activation {_brief(text)}, which no network here has")


def _dtype_problem(dtype: Any) -> str:
    if isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name")
    return "" if dtype is None or dtype in DTYPES else _brief(dtype)


def _normalizer(steps: list[Step]) -> tuple[Normalizer | None, list[Step]]:
    """The normalizer that a first Rescaling is to images in [0, 1], and the other steps.

    Operations on the input, such as `preprocess_input`, are a Rescaling already (`keras_preprocessing`).
    """
    if not steps or steps[0].kind != "rescaling" or steps[0].problem:
        return None, steps
    *values, order = steps[0].values
    scale, offset = (_numbers(value) for value in values)
    means = caffe().mean
    if order == BGR and scale == [1, 1, 1] and offset and np.allclose(offset, -np.asarray(means), atol=1e-3):
        return caffe(), steps[1:]
    if scale is None or offset is None or any(number == 0 for number in scale) or order != RGB:
        return None, [steps[0]._replace(problem=f"its layer {steps[0].name!r} rescales by {_brief(values)}")]
    # x · 255 · scale + offset, as (x - mean) · scales.
    if scale == [1 / 255] and offset == [0]:
        return identity(), steps[1:]
    scale, offset = (values * 3 if len(values) == 1 else values for values in (scale, offset))
    scales = [255 * number for number in scale]
    mean = [-shift / number for shift, number in zip(offset, scales, strict=True)]
    return per_channel("standard", mean, scales), steps[1:]


def _numbers(value: Any) -> list[float] | None:
    """One number, or one for each channel."""
    plain = _plain(value)
    plain = plain if isinstance(plain, list) else [plain]
    return [float(number) for number in plain] if all(map(is_number, plain)) and len(plain) in (1, 3) else None


def _split(steps: list[Step]) -> tuple[tuple[int, ...], list[Step], list[Step]]:
    """Convolutions before each pooling; the steps up to the last pooling; and those after it."""
    steps = list(steps)
    for i, (before, step) in enumerate(itertools.pairwise(steps), 1):
        if (before.kind, step.kind) == ("pool", "relu"):
            steps[i - 1], steps[i] = step, before  # the maximum of relus is the relu of the maximum
    last = max((i for i, step in enumerate(steps) if step.kind == "pool"), default=-1)
    body, head = steps[: last + 1], steps[last + 1 :]
    blocks, count = [], 0
    for i, step in enumerate(body):
        before, after = body[i - 1].kind if i else "", body[i + 1].kind if i + 1 < len(body) else ""
        wrong = ""
        if step.kind == "conv":
            count += 1
            wrong = "" if after in ("relu", "other") else f"its layer {step.name!r} has no relu after it"
        elif step.kind == "pool":
            blocks, count = [*blocks, count], 0
            wrong = "" if before == "relu" else f"its layer {step.name!r} does not come after a convolution and a relu"
        elif step.kind != "relu" or before != "conv":
            wrong = f"its layer {step.name!r} is where neither a VGG nor a SmallCNN has one"
        if wrong and not step.problem:
            body[i] = step._replace(problem=wrong)
    return tuple(blocks), body, head


def _check_edges(body: list[Step], blocks: int, image_size: tuple[int, int] | None) -> None:
    """Pooling with padding is the same as without where there is nothing to pad."""
    padded = [step.name for step in body if step.kind == "pool" and step.values == ("same",)]
    if padded and (image_size is None or any(size % 2**blocks for size in image_size)):
        raise Refused(f"its layer {padded[0]!r} (MaxPooling2D) has padding=same, not valid")


def _head_problem(head: list[Step]) -> str:
    """Why these steps are not flatten, dense, relu, dense, relu, dense and what may follow logits; "" if they are."""
    if not head:
        return ""
    wanted = ["flatten", "dense", "relu", "dense", "relu", "dense"]
    for step, kind in zip(head, wanted, strict=False):
        if step.problem or step.kind != kind:
            return step.problem or f"its layer {step.name!r} is where a network here has its {kind}"
    if len(head) < len(wanted):
        return f"after its layer {head[-1].name!r} a network here has its {wanted[len(head)]}"
    units, after = head[len(wanted) - 1].values[0], head[len(wanted) :]
    usual = "sigmoid" if units == 1 else "softmax"
    if after and (after[0].problem or after[0].kind != usual):
        return after[0].problem or (
            f"its layer {after[0].name!r} ends in {after[0].kind}, but networks of {units} "
            f"output{'s' * (units != 1)} end in {usual} here"
        )
    return f"its layer {after[1].name!r} comes after the last one of a network here" if len(after) > 1 else ""


def _image_size(config: Mapping[str, Any], chain: list[dict[str, Any]], channels_first: bool) -> tuple[int, int] | None:
    """The (height, width) that the config's input names, or with which a model without one was built."""
    shapes = [own.get("batch_shape") or own.get("batch_input_shape") for own in (layer["config"] for layer in chain)]
    for about in (config, config.get("config")):  # as Keras 2 and as Keras 3 write it
        if isinstance(about, dict):
            shapes += [about.get("build_input_shape"), (about.get("build_config") or {}).get("input_shape")]
    for shape in map(_plain, shapes):
        if isinstance(shape, list) and len(shape) == 4:
            height, width = shape[2:] if channels_first else shape[1:3]
            if all(isinstance(size, int) and size in range(1, 100_000) for size in (height, width)):
                return height, width
    return None
