"""Keyed random changes of the image between the steps of the ascent."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def jitter(key: Key[Array, ""], image: Float[Array, "height width channels"], amount: float) -> Array:
    """Roll an image by an offset uniform on {-j … j} in each axis, wrapping around.

    amount: j in pixels, or below 1 a fraction of each axis, rounded down. (keras-vis 0.4.1; its scipy `wrap` has
    period n - 1 where a roll has n.)
    """
    limits = jnp.array([pixels(amount, size) for size in image.shape[:2]])
    offsets = jax.random.randint(key, (2,), -limits, limits + 1)
    return jnp.roll(image, (offsets[0], offsets[1]), axis=(0, 1))


def pixels(amount: float, size: int) -> int:
    """A jitter amount in whole pixels for an axis of this size."""
    return int(amount * size) if amount < 1 else int(amount)
