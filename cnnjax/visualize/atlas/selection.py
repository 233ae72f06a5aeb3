"""Which layers and filters an atlas shows, and how large their pictures are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnjax import analysis
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes

SMALLEST = 64
"""Pixels of a picture's side, unless the network's images are smaller."""
LARGEST = 128
"""The same at most, unless an image size is given: lucid's."""


@dataclass(frozen=True)
class Layer:
    """One layer of an atlas.

    channels: how many the layer has. chosen: those in the atlas. image_size: of the filters' pictures, (height, width).
    field, stride, start: of a unit's receptive field in data images, see `analysis.Row`; None where they are unknown.
    """

    name: str
    channels: int
    chosen: tuple[int, ...]
    image_size: tuple[int, int]
    field: tuple[int, int] | None
    stride: tuple[int, int] | None
    start: tuple[int, int] | None


def choose_layers(
    network: Network,
    layers: Sequence[str] = (),
    filters_per_layer: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[Layer, ...]:
    """The layers of an atlas, in the network's order.

    layers: their names; by default all that have maps and parameters, since a pooling layer's channels are those of the
    layer before it. filters_per_layer: the first so many of each; None means all.
    image_size: of all pictures; by default it follows each layer's receptive field (`picture_size`).
    Raises UserError for a layer that does not exist or has no maps, and for an image size that the network refuses.
    """
    if filters_per_layer is not None and filters_per_layer < 1:
        raise UserError(f"filters_per_layer={filters_per_layer} must be at least 1")
    shapes = layer_shapes(network)
    rows = {row.layer: row for row in analysis.summary(network).rows if row.layer in shapes}
    for name in layers:
        check_channels(shapes, name, 1, maps=True)
    names = [name for name in shapes if name in layers]
    if not layers:
        names = [name for name, shape in shapes.items() if len(shape) == 3 and rows[name].parameters]
    if not names:
        raise UserError("this network has no layer with maps and parameters: name the layers to show")
    chosen = []
    for name in names:
        row, channels = rows[name], shapes[name][-1]
        size = picture_size(network, row.receptive_field) if image_size is None else image_size
        chosen.append(
            Layer(
                name=name,
                channels=channels,
                chosen=tuple(check_channels(shapes, name, filters_per_layer or channels)),
                image_size=at_image_size(network, size).image_size,
                field=row.receptive_field,
                stride=row.stride,
                start=row.start,
            )
        )
    return tuple(chosen)


def picture_size(network: Network, field: tuple[int, int] | None) -> tuple[int, int]:
    """How large a filter's picture is: twice its receptive field, between 64 and 128 pixels, in steps of 16.

    So the shallow layers, whose maps are the largest, cost as little as they need. Never larger than the network's
    images; and as large as these, where the network takes no other size or the field is unknown.
    """
    if field is None:
        return network.image_size
    sides = (min(LARGEST, max(SMALLEST, 16 * math.ceil(2 * n / 16))) for n in field)
    height, width = (min(side, own) for side, own in zip(sides, network.image_size, strict=True))
    try:
        return at_image_size(network, (height, width)).image_size
    except UserError:
        return network.image_size
