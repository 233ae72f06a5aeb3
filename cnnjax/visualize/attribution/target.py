"""What an attribution explains: one class's logit of each image."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cnnjax.data.as_unit import as_unit
from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.layers import Shapes, at_image_size, check_channels, layer_shapes
from cnnjax.visualize.objectives import Target, class_logit

ClassIndex = int | str | Sequence[int] | Sequence[str] | np.ndarray
"""A class by number or name: one for all images, or one for each."""


def prepare(
    network: Network, images: Images, class_index: ClassIndex | None, batch_size: int
) -> tuple[Network, Float[np.ndarray, "images height width channels"], Int[np.ndarray, " images"]]:
    """The network for images of this size, the images in [0, 1], and each one's class: the likeliest one for None.

    Raises UserError for images that are none (`as_unit`), a network without classes at their size, an unknown class, or
    nothing to do.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    # Here, since within a compiled program nobody can see that values reach to 255.
    images = np.asarray(as_unit(images, network.channels), np.float32)
    network = at_image_size(network, (images.shape[1], images.shape[2]))
    if not network.class_names:
        raise UserError("this network has no classes at this image size: give images of the network's own size")
    if class_index is None:
        return network, images, likeliest(network, images, batch_size)
    known = Target(layer_shapes(network), network.class_names)
    numbers = class_logit(class_index).bind(known).numbers()
    if len(numbers) not in (1, len(images)):
        raise UserError(f"there are {len(numbers)} classes for {len(images)} images: give one, or one for each image")
    return network, images, np.broadcast_to(numbers, len(images)).astype(np.int32)


def choose_layer(network: Network, layer: str | None) -> tuple[str, tuple[int, int, int]]:
    """A layer with maps, and the shape of its activation for one image.

    By default it is the last one or, if that only pools another one, the one that it pools, as in the papers: of VGG16
    block5_conv3.

    Raises UserError for a layer that does not exist or has no height and width.
    """
    known = layer_shapes(network)
    if layer is None:
        layer = _last(known)
    check_channels(known, layer, 1, maps=True)
    height, width, channels = known[layer]
    return layer, (height, width, channels)


def _last(known: Shapes) -> str:
    """The name of the last layer with maps, before it is pooled; the last layer if none has maps.

    Layers have no kinds here: smaller maps of as many channels as the layer before count as pooled, those of a strided
    convolution too.
    """
    maps = [name for name, shape in known.items() if len(shape) == 3]
    if not maps:
        return next(reversed(list(known)), "")
    *_, before, last = [maps[0], *maps]
    (height, width, channels), (rows, columns, units) = known[before], known[last]
    return before if channels == units and height > rows and width > columns else last


def class_scores(
    logits: Float[Array, "batch logits"], classes: Int[Array | np.ndarray, " batch"]
) -> Float[Array, " batch"]:
    """Each image's logit of its class. Of a single sigmoid logit class 0's is the negative."""
    return jnp.take_along_axis(two_ended(logits), classes[:, None], axis=1)[:, 0]


def two_ended(logits: Float[Array, "batch logits"]) -> Float[Array, "batch classes"]:
    """The logits of all classes: for a single sigmoid logit those of both."""
    return jnp.concatenate([-logits, logits], axis=1) if logits.shape[1] == 1 else logits


def scores(
    network: Network, images: Images, class_index: ClassIndex | None = None, *, batch_size: int = 16
) -> Float[np.ndarray, " images"]:
    """The class logit that the attributions explain, of each image. See `gradient` for the arguments."""
    network, images, classes = prepare(network, images, class_index, batch_size)
    batches = batches_of(len(images), batch_size)
    found = [_scores(network, images[rows], classes[rows]) for rows in batches]
    return np.concatenate(jax.device_get(found))[: len(images)]


def likeliest(network: Network, images: Images, batch_size: int = 16) -> Int[np.ndarray, " images"]:
    """The number of each image's likeliest class."""
    batches = (as_unit(images[rows], network.channels) for rows in batches_of(len(images), batch_size))
    found = [_likeliest(network, np.asarray(batch, np.float32)) for batch in batches]
    return np.concatenate(jax.device_get(found))[: len(images)]


def batches_of(count: int, size: int) -> list[np.ndarray]:
    """The numbers from 0 to count - 1 in batches of one size; the last number fills up the last batch."""
    size = min(size, count)
    return [np.minimum(np.arange(first, first + size), count - 1) for first in range(0, count, size)]


@jax.jit
def _scores(network: Network, images: Images, classes: Int[Array, " images"]) -> Float[Array, " images"]:
    return class_scores(network(images)[0], classes)


@jax.jit
def _likeliest(network: Network, images: Images) -> Int[Array, " images"]:
    return two_ended(network(images)[0]).argmax(axis=1).astype(jnp.int32)
