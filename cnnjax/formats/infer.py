"""Which model a file's arrays belong to, from their names and shapes alone."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cnnjax.formats.architectures import ARCHITECTURES, Architecture, Layer
from cnnjax.models.layers import scale_width

Shapes = Mapping[str, tuple[int, ...]]
"""By this package's names, as "block1_conv1/kernel", and in its layout."""
Pairs = list[tuple[int, int]]
"""The outputs of a layer in a model of width 1, and those found."""


class Inferred(NamedTuple):
    """A model that the arrays fit, as `models.create(**config)` makes it, and the size of its images."""

    config: dict[str, Any]
    image_size: tuple[int, int]


def infer(shapes: Shapes, image_size: tuple[int, int] | None = None) -> Inferred | None:
    """The model that these arrays fit best, or None if they fit none.

    Where some are missing or have a wrong shape the others decide, so that the wrong ones can be named afterwards. The
    image size is the smallest that gives the first dense layer its inputs: 224 for the usual 7 × 7, and also where the
    model does not depend on it. `image_size` is used instead where it gives the layer as many inputs.
    """
    found = {name.rpartition("/")[0] for name in shapes}
    architecture = min(ARCHITECTURES.values(), key=lambda known: len(found.symmetric_difference(known.paths())))
    if found.isdisjoint(architecture.paths(include_top=False)):
        return None
    width = _width_multiplier(architecture, shapes)
    cells = _cells(architecture, shapes, width)
    side = (math.isqrt(cells) or 7) << architecture.halvings
    size = (side, side)
    if image_size and math.prod(length >> architecture.halvings for length in image_size) == cells:
        size = image_size
    optional = {
        "dense_units": _dense_units(architecture, shapes, width),
        "include_top": not found.isdisjoint(architecture.top),
    }
    first, last = architecture.layers[0], architecture.layers[-1]
    config = {
        "name": architecture.name,
        "num_classes": _outputs(shapes, last) or 1000,
        "image_size": size,
        "channels": (_kernel(shapes, first, 4) or (0, 0, 3))[2] or 3,
        "width_multiplier": width,
        **{name: value for name, value in optional.items() if name in architecture.arguments},
    }
    return Inferred(config, size)


def _kernel(shapes: Shapes, layer: Layer, rank: int) -> tuple[int, ...]:
    """The shape of a layer's kernel; () if it is missing or of another rank."""
    shape = shapes.get(f"{layer.path}/kernel", ())
    return shape if len(shape) == rank else ()


def _outputs(shapes: Shapes, layer: Layer) -> int:
    shape = shapes.get(f"{layer.path}/bias") or shapes.get(f"{layer.path}/kernel")
    return shape[-1] if shape else 0


def _cells(architecture: Architecture, shapes: Shapes, width: float) -> int:
    """Pixels of the feature maps that the first dense layer takes; 0 if unknown."""
    channels = [scale_width(layer.units, width) for layer in architecture.layers if layer.kind == "conv"][-1]
    for layer in architecture.layers:
        if layer.kind == "flat" and (kernel := _kernel(shapes, layer, 2)):
            return kernel[0] // channels
    return 0


def _dense_units(architecture: Architecture, shapes: Shapes, width: float) -> int | None:
    """Outputs of the first dense layer; None if they are as many as the width says."""
    for layer in architecture.layers:
        kernel = _kernel(shapes, layer, 2)
        if layer.kind == "flat" and kernel and kernel[1] != scale_width(layer.units, width):
            return kernel[1]
    return None


def _width_multiplier(architecture: Architecture, shapes: Shapes) -> float:
    """The width of most convolutions, as round a number as there is; 1 if unknown."""
    convolutions = [layer for layer in architecture.layers if layer.kind == "conv" and layer.units]
    pairs = [(layer.units, kernel[3]) for layer in convolutions if (kernel := _kernel(shapes, layer, 4))]
    if not pairs:
        return 1.0
    # Dense layers may have other units; if they are of the same width they make it more precise.
    dense = [
        (layer.units, kernel[1])
        for layer in architecture.layers
        if layer.kind in ("flat", "dense") and layer.units and (kernel := _kernel(shapes, layer, 2))
    ]
    # A wrong shape would mislead all layers after it, so the layers are also looked at from the end.
    return max(_common_width(pairs + dense), _common_width(pairs[::-1] + dense))[1] or 1.0


def _common_width(pairs: Pairs) -> tuple[int, float]:
    """How many of the pairs a width multiplier explains, and the multiplier: the first pairs decide."""
    low, high = 0.0, math.inf
    for full, units in pairs:
        least, most = max(low, (units - 0.5) / full), min(high, (units + 0.5) / full)
        if least <= most:
            low, high = least, most
    width = 0.0
    for digits in range(10):
        width = round((low + high) / 2, digits)
        if low < width < high:
            break
    return sum(scale_width(full, width) == units for full, units in pairs), width
