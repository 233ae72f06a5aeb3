"""Transforms that change pixels' values."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.visualize.transforms.base import Limit, Transform


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Noise(Transform):
    """See `noise`."""

    std: Limit
    uniform: Limit

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "height width channels"]:
        first, second = jax.random.split(key)
        normal = self.std * jax.random.normal(first, image.shape)
        return image + (normal + self.uniform * jax.random.uniform(second, image.shape, minval=-1)).astype(image.dtype)


def noise(std: float, uniform: float = 0.0) -> Transform:
    """Add normal noise of this standard deviation, and noise uniform on [-uniform, uniform], both in 0 to 255.

    Raises UserError for a negative number.
    """
    if std < 0 or uniform < 0:
        raise UserError(f"noise({std:g}, {uniform:g}) must not be negative")
    return Noise(float(std), float(uniform))
