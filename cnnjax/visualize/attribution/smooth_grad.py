"""SmoothGrad (Smilkov et al. 2017): the mean gradient of noisy copies of an image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.gradient import input_gradient
from cnnjax.visualize.attribution.reduction import reduce_channels
from cnnjax.visualize.attribution.target import ClassIndex, prepare


def smooth_grad(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    key: Key[Array, ""] | None = None,
    noise: Float[Array | np.ndarray, "samples height width channels"] | None = None,
    samples: int = 50,
    noise_level: float = 0.15,
    reduction: str = "max-abs",
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width ..."]:
    """SmoothGrad (Smilkov et al. 2017): the mean gradient over `samples` copies of the image with Gaussian noise.

    noise_level: standard deviation of the noise over the range (largest less smallest value) of each image; the paper
    uses 0.1 to 0.2. key: of the noise, by default `jax.random.key(0)`. All images get the same noise, so that a map
    does not depend on what else is explained. noise: standard normal numbers in place of those that follow from the
    key; then their number is that of the samples.
    The class is the one of the image without noise. batch_size: noisy copies, of one image or several, that the network
    is given at a time. See `gradient` for the other arguments. Raises UserError as it does.
    """
    if noise is not None:
        samples = len(noise)
        if noise.shape[1:] != images.shape[1:]:
            raise UserError(f"noise of shape {noise.shape} does not fit images of shape {images.shape}")
    if samples < 1 or not noise_level >= 0:
        raise UserError(f"samples={samples} must be at least 1, and noise_level={noise_level} at least 0")
    network, images, classes = prepare(network, images, class_index, batch_size)
    drawn = (jax.random.key(0) if key is None else key) if noise is None else jnp.asarray(noise, jnp.float32)
    total = accumulate(
        NoisyGradient(given=noise is not None),
        network,
        images,
        classes,
        shared=(drawn, np.float32(noise_level)),
        samples=samples,
        batch_size=batch_size,
    )
    return reduce_channels(total / samples, reduction)


@dataclass(frozen=True)
class NoisyGradient:
    """The gradient at a noisy copy. given: the noise is an array; else it follows from a key."""

    given: bool

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width channels"]:
        drawn, level = rows.shared
        images = rows.images
        if self.given:
            noise = drawn[rows.samples]
        else:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(drawn, rows.samples)
            noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
        spread = images.max(axis=(1, 2, 3), keepdims=True) - images.min(axis=(1, 2, 3), keepdims=True)
        return input_gradient(network, images + level * spread * noise, rows.classes)
