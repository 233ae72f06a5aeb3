"""The image's own pixels as parameters."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from cnnjax.visualize.parameterizations.base import quantize

MEAN, STD = 127.5, 12.75
"""Of the noise that keras-vis starts from."""
EPSILON = 1e-7


@dataclass(frozen=True)
class Pixels:
    """The image's own pixels, from noise, as in keras-vis 0.4.1; they may leave 0 to 255 on the way."""

    standardize: bool = True
    """An image is saved with a standard deviation of a tenth of the range, whatever its range was (keras-vis 0.4.1).
    Otherwise it is saved as it is, clipped to 0 to 255."""

    def init(
        self, key: Key[Array, ""], image_size: tuple[int, int], channels: int
    ) -> Float[Array, "height width channels"]:
        """Uniform noise standardized to mean 127.5 and standard deviation 12.75."""
        return _standardize(jax.random.uniform(key, (*image_size, channels))) * STD + MEAN

    def to_image(self, params: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        return params

    def to_uint8(self, image: Float[Array, "height width channels"]) -> UInt8[Array, "height width channels"]:
        """An image of any range."""
        if not self.standardize:
            return quantize(image)
        return jnp.trunc(jnp.clip(_standardize(image) * 0.1 + 0.5, 0, 1) * 255).astype(jnp.uint8)

    def from_image(self, image: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
        return image


def pixels(*, standardize: bool = True) -> Pixels:
    """Optimize the pixels themselves; see `Pixels`.

    standardize: whether images are saved with one and the same contrast, as those of keras-vis are, or as they are.
    """
    return Pixels(standardize)


def _standardize(image: jax.Array) -> jax.Array:
    return (image - image.mean()) / (image.std() + EPSILON)
