"""Max pooling over batches of images: windows side by side as a reshape and a maximum, overlapping ones by slices.

XLA's windowed reduction is slow on the CPU, and so is its gradient (select and scatter). A TPU has the batch or the
channels along its vectors, where a window is only addressing: there reshapes and strided slices are what is slow.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.errors import UserError


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
    return _max_pool(x, window)


def overlapping_max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """The maximum of 3×3 windows at stride 2, with one row and column of padding at each edge, as ResNet has it.

    The gradient goes to a window's first maximum in reading order, as in PyTorch.
    """
    return lax.platform_dependent(x, tpu=_overlapping_reduced, default=_overlapping_slices)


def _overlapping_reduced(x: Array) -> Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def _overlapping_slices(x: Array) -> Array:
    """Along one axis after the other, each from strided slices: three times as fast on a CPU as the reduction."""
    for axis in (2, 1):
        size = (x.shape[axis] + 1) // 2
        padding = [(0, 0, 0)] * 4
        padding[axis] = (1, 2 * size - x.shape[axis], 0)
        x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
        largest, *others = (lax.slice_in_dim(x, i, i + 2 * size - 1, 2, axis) for i in range(3))
        for other in others:
            largest = jnp.where((largest >= other) | jnp.isnan(largest), largest, other)
        x = largest
    return x


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
    # Each window's first maximum, by its number in reading order: it is all of x that the gradient has to keep. A
    # comparison of x with its maximum would not do: XLA may compute x twice, and the two may round differently.
    numbers = jnp.arange(window**2, dtype=jnp.uint8 if window < 16 else jnp.int32).reshape(window, window)
    across = [_larger([(x[:, :, i, :, j], numbers[i, j]) for j in range(window)]) for i in range(window)]
    y, first = _larger(across)
    chosen = first[:, :, None, :, None] == numbers[None, None, :, None, :, None]
    return y, jnp.where(chosen, dx, 0).sum((2, 4))


def _larger(candidates: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The largest of some arrays, element by element, and the number beside the first that has it."""
    best, number = candidates[0]
    for value, other in candidates[1:]:
        best, number = jnp.maximum(best, value), jnp.where(value > best, other, number)
    return best, number
