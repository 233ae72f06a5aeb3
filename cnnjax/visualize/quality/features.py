"""What a network makes of images: the means of channels, and the value of what each image was drawn for."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from cnnjax.data.as_unit import as_unit
from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.target import batches_of, two_ended
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes

Pixels = UInt8[np.ndarray, "images height width channels"]


def channel_means(
    network: Network, images: Images, layers: Sequence[str], *, batch_size: int = 32
) -> dict[str, Float[np.ndarray, "images _"]]:
    """The mean of each channel of some layers for each image; of a dense layer its units.

    Raises UserError for an unknown layer, and for what are no images.
    """
    network = at_image_size(network, (images.shape[1], images.shape[2]))
    known = layer_shapes(network)
    for layer in layers:
        check_channels(known, layer, 1)
    found = [
        # Here, since within a compiled program nobody can see that values reach to 255.
        jax.device_get(_means(network, as_unit(images[rows], network.channels), tuple(layers)))
        for rows in batches_of(len(images), batch_size)
    ]
    return {layer: np.concatenate([one[layer] for one in found])[: len(images)] for layer in layers}


def values_of(
    images: Sequence[Image], network: Network, pixels: Pixels | None = None, *, batch_size: int = 32
) -> Float[np.ndarray, " images"]:
    """What each image was drawn for, its channel's mean or its class's logit, after relu: for the image as it is saved.

    pixels: the value is that for these, one for each image. All images must have one size.
    Raises UserError for images of something else than a channel or a class.
    """
    shown = stack(images) if pixels is None else pixels
    network = at_image_size(network, (shown.shape[1], shown.shape[2]))
    values = np.zeros(len(images))
    for layer, places in by_layer(images).items():
        means = channel_means(network, shown[places], [layer], batch_size=batch_size)[layer]
        numbers = [channel_of(images[place]) for place in places]
        values[places] = means[np.arange(len(places)), numbers]
    if places := class_places(images):
        batches = batches_of(len(places), batch_size)
        logits = np.concatenate([np.asarray(_logits(network, shown[np.asarray(places)[rows]])) for rows in batches])
        numbers = [class_of(images[place], network) for place in places]
        values[places] = logits[np.arange(len(places)), numbers]
    return values


def stack(images: Sequence[Image]) -> Pixels:
    """The images' pixels as one array. Raises UserError for images of several sizes, or none."""
    sizes = {image.pixels.shape for image in images}
    if len(sizes) != 1:
        raise UserError(f"there are images of {len(sizes)} sizes: give at least one image, and all of one size")
    return np.stack([image.pixels for image in images])


def by_layer(images: Sequence[Image]) -> dict[str, list[int]]:
    """The numbers of the images that were drawn for a channel, by its layer.

    Raises UserError for images of something else than a channel or a class.
    """
    places: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        kind = image.provenance.get("kind")
        if kind not in ("filter", "class"):
            raise UserError(f"quality is measured of images of filters and classes, not of the kind {kind!r}")
        if kind == "filter":
            places.setdefault(str(image.provenance["layer"]), []).append(number)
    return places


def class_places(images: Sequence[Image]) -> list[int]:
    """The numbers of the images that were drawn for a class."""
    return [number for number, image in enumerate(images) if image.provenance.get("kind") == "class"]


def channel_of(image: Image) -> int:
    """The channel that an image was drawn for."""
    return int(str(image.provenance["channel"]))


def class_of(image: Image, network: Network) -> int:
    """The number that a network gives to the class that an image was drawn for, by its name."""
    name = str(image.provenance["class"])
    if name not in network.class_names:
        raise UserError(f"the network does not know the class {name!r} that an image was drawn for")
    return network.class_names.index(name)


@partial(jax.jit, static_argnames=("layers",))
def _means(network: Network, images: Images, layers: tuple[str, ...]) -> dict[str, Float[Array, "images _"]]:
    _, activations = network(images)
    found = {layer: activations[layer] for layer in layers}
    return {layer: maps.reshape(len(maps), -1, maps.shape[-1]).mean(axis=1) for layer, maps in found.items()}


@jax.jit
def _logits(network: Network, images: Images) -> Float[Array, "images classes"]:
    return two_ended(network(images)[0])
