"""Grad-CAM (Selvaraju et al. 2017): where in an image a network found a class."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes
from cnnjax.visualize.objectives import Target, class_logit


def grad_cam(
    network: Network,
    images: Float[Array | np.ndarray, "images height width channels"],
    class_index: int | str | Sequence[int] | Sequence[str] | None = None,
    layer: str | None = None,
    *,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """A heat map in [0, 1] for each image in [0, 1]: what in it speaks for a class, at the size of the image.

    The channels of the layer's activation, each weighted by the mean gradient of the class's logit with respect to it,
    are added; what is negative counts as 0; the map is enlarged to the image by bilinear interpolation and divided by
    its maximum. A map is 0 everywhere if nothing in the layer speaks for the class.

    class_index: a class by number or name, one for all images or one for each; by default the likeliest of each. With
    one sigmoid logit, class 1's is the logit and class 0's its negative. layer: by default the last one with height
    and width. batch_size: images at a time; one program serves them all.

    Raises UserError for a network without classes, or an unknown class or layer.
    """
    network = at_image_size(network, (images.shape[1], images.shape[2]))
    known = layer_shapes(network)
    if not network.class_names:
        raise UserError("this network has no classes at this image size: give images of the network's own size")
    if layer is None:
        layer = next((name for name, shape in reversed(known.items()) if len(shape) == 3), "")
    check_channels(known, layer, 1, maps=True)
    classes = _classes(network, class_index, known, len(images))
    size = min(batch_size, len(images))
    if size < 1:
        raise UserError(f"there are {len(images)} images and batch_size={batch_size}: give at least one of both")
    found = []
    for first in range(0, len(images), size):
        chosen = np.minimum(np.arange(first, first + size), len(images) - 1)
        batch = jnp.asarray(images[chosen], jnp.float32)
        found.append(_heat(network, batch, jnp.asarray(classes[chosen]), layer, known[layer]))
    return np.concatenate(jax.device_get(found))[: len(images)]


def _classes(
    network: Network,
    class_index: int | str | Sequence[int] | Sequence[str] | None,
    known: dict[str, tuple[int, ...]],
    count: int,
) -> Int[np.ndarray, " images"]:
    """Each image's class; -1 for the likeliest."""
    if class_index is None:
        return np.full(count, -1, np.int32)
    numbers = class_logit(class_index).bind(Target(known, network.class_names)).numbers()
    if len(numbers) not in (1, count):
        raise UserError(f"there are {len(numbers)} classes for {count} images: give one, or one for each image")
    return np.broadcast_to(numbers, count)


@partial(jax.jit, static_argnames=("layer", "shape"))
def _heat(
    network: Network, images: jax.Array, classes: jax.Array, layer: str, shape: tuple[int, int, int]
) -> Float[Array, "images height width"]:
    def score(perturbation: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = network.apply(images, perturbations={layer: perturbation})
        logits = output.logits
        assert isinstance(logits, jax.Array), "a network has classes only if its logits are one array"
        if logits.shape[1] == 1:
            logits = jnp.concatenate([-logits, logits], axis=1)
        chosen = jnp.where(classes < 0, logits.argmax(axis=1), classes)
        return jnp.take_along_axis(logits, chosen[:, None], axis=1).sum(), output.activations[layer]

    gradient, activation = jax.grad(score, has_aux=True)(jnp.zeros((len(images), *shape), images.dtype))
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    maps = jax.nn.relu((weights * activation).sum(axis=-1))
    maps = jax.image.resize(maps, images.shape[:3], "bilinear")
    largest = maps.max(axis=(1, 2), keepdims=True)
    return maps / jnp.where(largest > 0, largest, 1.0)
