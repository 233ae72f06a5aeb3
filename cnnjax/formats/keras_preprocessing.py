"""Operations on the input of a functional Keras model, such as `preprocess_input` of keras.applications.

Keras 3 writes each operation as a layer of its own. Those that scale and shift channels, or change their order, are
collapsed into one Rescaling; nothing is executed. Source: keras.applications.imagenet_utils.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cnnjax.formats.keras_nodes import layer_name, sources

RGB, BGR = (0, 1, 2), (2, 1, 0)
MOST = 1e30
_ARITHMETIC = ("Add", "Subtract", "Multiply", "TrueDivide", "Divide")
_OPERATIONS = ("GetItem", "Stack", *_ARITHMETIC)


class _Channels(NamedTuple):
    """Channels of the input after x · scale + offset. is_image: they are the last axis, and not one channel alone."""

    order: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    is_image: bool = True


def collapse(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers with one Rescaling in place of the operations on the input, if these are nothing else.

    The Rescaling has an option "order", the input's channels in the order in which the model takes them. Layers whose
    operations are not understood are returned as they are.
    """
    operations = {layer_name(layer): layer for layer in layers if layer.get("class_name") in _OPERATIONS}
    inputs = [layer_name(layer) for layer in layers if layer.get("class_name") == "InputLayer"]
    if not operations or len(inputs) != 1:
        return layers
    known = {inputs[0]: _Channels(RGB, (1.0,) * 3, (0.0,) * 3)}
    for name, layer in operations.items():  # Keras writes them in the order of computation
        found = _result(layer, known)
        if found is None:
            return layers
        known[name] = found
    others = [layer for layer in layers if layer_name(layer) not in operations]
    taken = [name for layer in others for node in layer.get("inbound_nodes") or [] for name in sources(node)]
    last = [name for name in taken if name in known]
    if len(last) != 1 or last[0] == inputs[0] or not known[last[0]].is_image:
        return layers
    order, scale, offset, _ = known[last[0]]
    rescaling = {
        "class_name": "Rescaling",
        "name": last[0],
        "config": {"name": last[0], "scale": list(scale), "offset": list(offset), "order": order},
        "inbound_nodes": [[[inputs[0], 0, 0, {}]]],
    }
    return [*others, rescaling]


def _result(layer: Mapping[str, Any], known: Mapping[str, _Channels]) -> _Channels | None:
    """What an operation makes of the channels; None for one that is not understood."""
    nodes = layer.get("inbound_nodes") or []
    if len(nodes) != 1 or not isinstance(nodes[0], dict) or nodes[0].get("kwargs"):
        return None
    taken = [known[name] for name in sources(nodes[0]) if name in known]
    if len(taken) != len(list(sources(nodes[0]))):
        return None
    match layer["class_name"], nodes[0]["args"]:
        case "GetItem", [_, [{"class_name": "__ellipsis__"}, int(channel)]] if len(taken) == 1 and taken[0].is_image:
            one = taken[0]
            if channel in range(len(one.order)):
                return _Channels((one.order[channel],), (one.scale[channel],), (one.offset[channel],), False)
        case "Stack", [[*_]] if layer["config"].get("axis") == -1 and not any(one.is_image for one in taken):
            taken.reverse()  # `sources` names the last one first
            return _Channels(*(tuple(value for one in taken for value in one[part]) for part in range(3)))
        case (kind, [{"class_name": "__keras_tensor__"}, value]) if len(taken) == 1 and kind in _ARITHMETIC:
            return _arithmetic(kind, taken[0], value)
    return None


def is_number(value: Any) -> bool:
    """Whether a value of a config is a number with which images can be computed; one of 400 digits is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST


def _arithmetic(kind: str, channels: _Channels, value: Any) -> _Channels | None:
    """The channels plus, minus, times or divided by a number, or by one for each of them."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("value") if value.get("class_name") == "__tensor__" else None
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    numbers = value if isinstance(value, list) else [value] * len(channels.order)
    if not all(map(is_number, numbers)) or len(numbers) != len(channels.order):
        return None
    if kind.endswith("Divide") and any(abs(number) < 1 / MOST for number in numbers):
        return None
    scale, offset = channels.scale, channels.offset
    if kind in ("Add", "Subtract"):
        sign = 1 if kind == "Add" else -1
        offset = tuple(before + sign * number for before, number in zip(offset, numbers, strict=True))
    else:
        factors = [number if kind == "Multiply" else 1 / number for number in numbers]
        scale = tuple(before * factor for before, factor in zip(scale, factors, strict=True))
        offset = tuple(before * factor for before, factor in zip(offset, factors, strict=True))
    return channels._replace(scale=scale, offset=offset)
