"""A network's layers by name, and the network for images of another size."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cnnjax import models
from cnnjax.errors import UserError, unknown
from cnnjax.image_size import to_size
from cnnjax.network import Network

Shapes = Mapping[str, tuple[int, ...]]
"""Each layer's activation shape for one image, in the order of the layers."""


def layer_shapes(network: Network, image_size: int | tuple[int, int] | None = None) -> dict[str, tuple[int, ...]]:
    """Each layer's activation shape for one image, in the order of the layers.

    image_size: in pixels, an int or (height, width); by default the network's.
    Raises UserError for a size that the network does not take.
    """
    network = at_image_size(network, image_size)
    return models.layer_shapes(network.graphdef, network.params, network.model_state, network.image_shape)


def check_channels(
    layers: Shapes, layer: str, channels: int | np.integer | Sequence[int], *, maps: bool = False
) -> list[int]:
    """The channels asked for in a layer; a number means the first so many (or all, if there are fewer).

    Raises UserError for a layer or a channel that does not exist, or, if `maps`, for a layer without height and width.
    Also for one of which images of this size leave nothing, whose means would not be numbers.
    """
    if layer not in layers:
        raise _unknown_layer(layer, [name for name, shape in layers.items() if not maps or len(shape) == 3] or layers)
    if maps and len(layers[layer]) != 3:
        spatial = [name for name, shape in layers.items() if len(shape) == 3]
        if not spatial:
            raise UserError(
                f"layer {layer!r} has no maps, nor has any other of this network: give one that has convolutions"
            )
        raise UserError(f"layer {layer!r} has no maps: choose one that does, of {_listed(spatial)}")
    if not layers[layer]:
        raise UserError(f"layer {layer!r} has no channels, but one number for each image: choose another layer")
    if 0 in layers[layer]:
        shape = "×".join(map(str, layers[layer]))
        raise UserError(f"layer {layer!r} is empty ({shape}) for images of this size: give larger ones")
    count = layers[layer][-1]
    if isinstance(channels, int | np.integer):
        channels = range(min(channels, count))
    for number in channels:
        if not 0 <= number < count:
            raise UserError(f"layer {layer!r} has no channel {number}: its {count} channels are 0 to {count - 1}")
    if not len(channels):
        raise UserError(f"no channel of layer {layer!r} was given: name at least one")
    return list(channels)


def _unknown_layer(layer: str, known: Iterable[str]) -> UserError:
    """The error for a layer that does not exist, with those that do."""
    known = list(known)
    error = unknown("layer", layer, known)
    return UserError(f"{error} The layers are {_listed(known)}") if str(error).endswith("?") else error


def _listed(names: Sequence[str]) -> str:
    """The names in a sentence, of many the first and the last ones."""
    return ", ".join(names if len(names) <= 8 else [*names[:4], "…", *names[-3:]])


def at_image_size(network: Network, image_size: int | tuple[int, int] | None) -> Network:
    """The network for images of another size, an int or (height, width); itself for None and for its own size.

    A network whose layers take any size, such as a ResNet, stays complete. A VGG is reduced to its convolutions: its
    dense layers fix the image size, so without them it has neither logits nor classes.
    Raises UserError for a network that takes its own size only.
    """
    if image_size is None:
        return network
    size = to_size(image_size)
    if size == network.image_size:
        return network
    model = network.model()
    if isinstance(model, models.VGG) and model.include_top:
        model.include_top = False
        graphdef, _, _ = models.split(model)
        network = network.replace(graphdef=graphdef, class_names=())
    changed = network.replace(image_size=size)
    try:
        changed.logits_shape()
    except Exception as error:  # what a model raises for a shape that its layers do not take can be anything
        height, width = network.image_size
        if isinstance(model, models.VGG):
            raise UserError(f"this VGG's convolutions take no images of {size[0]}×{size[1]}: {error}") from error
        raise UserError(
            f"this network only takes images of {height}×{width}, not {size[0]}×{size[1]}: only a VGG's convolutions "
            "and networks whose dense layers follow a global pooling take other sizes"
        ) from error
    return changed
