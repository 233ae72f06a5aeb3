"""Keyed random changes of the image between the steps of the ascent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def jitter(
    key: Key[Array, ""], image: Float[Array, "height width channels"], limit: int | Int[Array, ""]
) -> Float[Array, "height width channels"]:
    """Roll an image by an offset uniform on {-limit … limit} in each axis, wrapping around.

    As keras-vis 0.4.1, but for its scipy `wrap`, whose period is n - 1 where a roll's is n.
    """
    offsets = jax.random.randint(key, (2,), -limit, limit + 1)
    return jnp.roll(image, (offsets[0], offsets[1]), axis=(0, 1))


def pixels(amount: float, side: int) -> int:
    """A jitter in whole pixels; an amount below 1 is a fraction of the side, rounded down."""
    return int(amount * side) if amount < 1 else int(amount)
