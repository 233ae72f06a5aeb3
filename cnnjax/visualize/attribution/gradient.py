"""The gradient of a class's logit with respect to the image: saliency (Simonyan et al. 2014), and times the image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.reduction import reduce_channels
from cnnjax.visualize.attribution.target import ClassIndex, class_scores, prepare


def gradient(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    reduction: str = "max-abs",
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width ..."]:
    """Saliency (Simonyan et al. 2014): how much the class's logit changes with each value of an image in [0, 1].

    images: (images, height, width, channels), floats in [0, 1], or uint8 in [0, 255], which are divided by 255.

    class_index: a class by number or name, one for all images or one for each; by default the likeliest of each. With
    one sigmoid logit, class 1's is the logit and class 0's its negative.
    reduction: "max-abs", the largest magnitude among a pixel's channels (the paper's map, height × width); "sum" over
    the channels, with its sign; or "none", (height, width, channels).
    batch_size: images that the network is given at a time. The rows of a batch are shared out among the devices.

    Raises UserError for a network without classes at this image size, an unknown class or reduction, and images of
    another range.
    """
    network, images, classes = prepare(network, images, class_index, batch_size)
    slopes = accumulate(Gradient(), network, images, classes, batch_size=batch_size)
    return reduce_channels(slopes, reduction)


def gradient_times_input(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    reduction: str = "sum",
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width ..."]:
    """The gradient times the image (Shrikumar et al. 2016): a first-order share of each pixel in the class's logit.

    The image is in [0, 1], so what is black has no share. See `gradient` for the arguments; by default the channels
    are added. Raises UserError as it does.
    """
    network, images, classes = prepare(network, images, class_index, batch_size)
    slopes = gradient(network, images, classes, reduction="none", batch_size=batch_size)
    return reduce_channels(slopes * images, reduction)


@dataclass(frozen=True)
class Gradient:
    """The gradient at the image itself, of which there is one sample."""

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width channels"]:
        return input_gradient(network, rows.images, rows.classes)


def input_gradient(
    network: Network, images: Float[Array, "batch height width channels"], classes: Int[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """The gradient of each image's class logit with respect to the image."""
    return jax.grad(lambda images: class_scores(network(images)[0], classes).astype(jnp.float32).sum())(images)
