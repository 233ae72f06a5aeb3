"""What is optimised: pixels in display units, 0 to 255, from noise to a picture to save."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

MIDDLE, SPREAD = 127.5, 12.75


def seeds(keys: Key[Array, " batch"], side: int) -> Float[Array, "batch {side} {side} 3"]:
    """Uniform noise standardised to mean 127.5 and deviation 12.75, one image a key (keras-vis 0.4.1)."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (side, side, 3)))(keys)
    return _standardise(noise) * SPREAD + MIDDLE


def deprocess(images: Float[Array, "batch height width 3"]) -> UInt8[Array, "batch height width 3"]:
    """Images of any range as pictures: each one's deviation becomes a tenth of the range (keras-vis 0.4.1)."""
    return jnp.trunc(jnp.clip(_standardise(images) * 0.1 + 0.5, 0, 1) * 255).astype(jnp.uint8)


def _standardise(images: jax.Array) -> jax.Array:
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    deviation = images.std(axis=(1, 2, 3), keepdims=True)
    return (images - mean) / (deviation + 1e-7)
