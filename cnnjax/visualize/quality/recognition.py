"""Whether images of classes are recognized: by the network that they were drawn for, and by an independent twin."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.target import batches_of
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size
from cnnjax.visualize.quality.features import class_of, stack


class Recognition(NamedTuple):
    """For each image the probability of its class, and whether it is the likeliest one.

    twin_probabilities and twin_likeliest: the same by the twin, None without one.
    """

    probabilities: Float[np.ndarray, " images"]
    likeliest: Bool[np.ndarray, " images"]
    twin_probabilities: Float[np.ndarray, " images"] | None = None
    twin_likeliest: Bool[np.ndarray, " images"] | None = None


def recognized(
    images: Sequence[Image], network: Network, twin: Network | None = None, *, batch_size: int = 32
) -> Recognition:
    """Whether the network recognizes the classes that images were drawn for, in the images as they are saved.

    twin: a network of the same classes, in any order, that was trained from another seed: what it recognizes, too, is
    no peculiarity of the first one. Raises UserError for a class that one of them does not know.
    """
    own = _recognized(images, network, batch_size)
    return Recognition(*own) if twin is None else Recognition(*own, *_recognized(images, twin, batch_size))


def _recognized(
    images: Sequence[Image], network: Network, batch_size: int
) -> tuple[Float[np.ndarray, " images"], Bool[np.ndarray, " images"]]:
    shown = stack(images)
    numbers = np.asarray([class_of(image, network) for image in images])
    network = at_image_size(network, (shown.shape[1], shown.shape[2]))
    batches = [_probabilities(network, shown[rows]) for rows in batches_of(len(images), batch_size)]
    found = np.concatenate(jax.device_get(batches))[: len(images)]
    return found[np.arange(len(images)), numbers], found.argmax(axis=1) == numbers


@jax.jit
def _probabilities(network: Network, images: Images) -> Float[Array, "images classes"]:
    return network.probabilities(images)
