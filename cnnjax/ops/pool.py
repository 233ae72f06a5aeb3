"""Max pooling over batches of images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _windows(x: Array, window: int) -> Array:
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels)


def max_pool(
    x: Float[Array, "batch height width channels"], window: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    return _windows(x, window).max((2, 4))
