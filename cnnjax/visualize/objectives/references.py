"""What a layer makes of given images, for objectives that compare with it."""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from cnnjax.data.as_unit import as_unit
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.visualize.layers import Shapes, at_image_size, check_channels, layer_shapes

References = Shaped[Array | np.ndarray, "..."]
"""One image (height, width, channels) or several, uint8 or floats in [0, 1]."""


def activations_of_images(network: Network, images: References, layer: str) -> Float[np.ndarray, "images ..."]:
    """A layer's activation for each image.

    Raises UserError for a layer that does not exist, and for what are no images.
    """
    images = np.asarray(images)
    # Here, since within a compiled program nobody can see that values reach to 255.
    images = np.asarray(as_unit(images[None] if images.ndim == 3 else images, network.channels))
    network = at_image_size(network, images.shape[1:3])
    check_channels(layer_shapes(network), layer, 1)
    return np.asarray(_activations(network, images, layer))


def check_reference(layers: Shapes, layer: str, reference: Array | np.ndarray) -> None:
    """Raises UserError unless the reference's shape is that of the layer in the images that are drawn."""
    check_channels(layers, layer, 1)
    if np.shape(reference)[1:] != layers[layer]:
        raise UserError(
            f"layer {layer!r} is {'×'.join(map(str, layers[layer]))} for the images that are drawn, but "
            f"{'×'.join(map(str, np.shape(reference)[1:]))} for the given one: draw at its size, by image_size"
        )


@partial(jax.jit, static_argnames=("layer",))
def _activations(network: Network, images: Array | np.ndarray, layer: str) -> Float[Array, "images ..."]:
    return network(images)[1][layer]
