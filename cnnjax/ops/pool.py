"""Max pooling over batches of images, as a reshape and a maximum.

XLA's windowed reduction is slow on the CPU, and so is its gradient (select and scatter). A TPU has the batch or the
channels along its vectors, where a window is only addressing: there the reshape is what is slow.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.errors import UserError
from cnnjax.ops.plain import is_plain


def max_pool(
    x: Float[Array, "batch height width channels"], window: int = 2
) -> Float[Array, "batch out_height out_width channels"]:
    """The maximum of each square window, windows side by side (stride = window), as in the article's section 2.4.

    What is left of a side that the window does not divide is cropped. The gradient goes to a window's first maximum, in
    reading order, as in PyTorch: it is one pass of comparisons, and sums to the output's gradient also where there are
    ties. Differentiable in both modes, any number of times. Raises UserError for a window larger than the image.
    """
    if window < 1 or window > min(x.shape[1:3]):
        raise UserError(f"a pooling window of {window} does not fit into images of {x.shape[1]}×{x.shape[2]} pixels")
    return _reduced(x, window) if is_plain() else _max_pool(x, window)


def _windows(x: Array, window: int) -> Array:
    """(batch, out height, window, out width, window, channels)"""
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: Array, window: int) -> Array:
    return lax.platform_dependent(
        x, tpu=partial(_reduced, window=window), default=lambda x: _windows(x, window).max((2, 4))
    )


@_max_pool.defjvp
def _jvp(window: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    def own(x: Array, dx: Array) -> tuple[Array, Array]:
        return jax.jvp(partial(_reduced, window=window), (x,), (dx,))

    return lax.platform_dependent(*primals, *tangents, tpu=own, default=partial(_chosen, window=window))


def _reduced(x: Array, window: int) -> Array:
    """XLA's windowed reduction, whose gradient goes to the first maximum as well."""
    size = (1, window, window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, size, size, "VALID")


def _chosen(x: Array, dx: Array, window: int) -> tuple[Array, Array]:
    x, dx = _windows(x, window), _windows(dx, window)
    y = x.max((2, 4))
    # Each window's first maximum, by its number in reading order: it is all of x that the gradient has to keep.
    first = jnp.full(y.shape, window**2 - 1, jnp.uint8 if window < 16 else jnp.int32)
    for i, j in reversed(list(product(range(window), repeat=2))[:-1]):
        first = jnp.where(x[:, :, i, :, j] == y, first.dtype.type(i * window + j), first)
    number = jnp.arange(window**2, dtype=first.dtype).reshape(1, 1, window, 1, window, 1)
    chosen = first[:, :, None, :, None] == number
    return y, jnp.where(chosen, dx, 0).sum((2, 4))
