"""Convolution over batches of images, with gradients that are fast on every platform.

XLA's CPU compiler gives a convolution to its fast kernels only when the axes are in the order batch, rows, columns,
channels. It puts the gradients' axes in that order itself, but not inside a loop: there a weight gradient is some
hundred times slower (jaxlib 0.10.2). So on the CPU the gradients are written as convolutions in that order. Other
platforms keep JAX's own gradients, which their libraries recognise.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops import phases, winograd
from cnnjax.ops.pool import max_pool
from cnnjax.ops.winograd import Edges

IMAGES = 8
"""How many are taken together for a kernel's gradient on a CPU, with channels in the batch's place."""


def conv(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int = 1,
    padding: Literal["SAME", "VALID"] | int = "SAME",
) -> Float[Array, "batch out_height out_width outputs"]:
    """Cross-correlation of images (NHWC) with a kernel (HWIO), as the article's section 2.1 slides it.

    `padding`: "SAME" keeps the side at stride 1, "VALID" adds nothing, a number adds that many zeros at every edge.
    Differentiable in reverse mode, any number of times; not in forward mode. On a CPU, what is not finite in x also
    reaches outputs nearby that do not see it.
    """
    if isinstance(padding, int):
        edges = ((padding, padding),) * 2
    else:
        edges = tuple(lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding))
    return _conv(x, kernel, edges) if stride == 1 else _xla(x, kernel, stride, edges)


@jax.custom_vjp
def conv_max_pool(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "rows columns inputs outputs"]
) -> Float[Array, "batch half_height half_width outputs"]:
    """`max_pool(conv(x, kernel))`, and where no gradient is asked for, on a CPU, without what lies between.

    Differentiable in reverse mode, any number of times.
    """
    if not _pays(x, kernel):
        return max_pool(conv(x, kernel))
    edges = tuple(lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), "SAME"))
    together = partial(winograd.conv_max_pool, edges=edges)
    return lax.platform_dependent(x, kernel, cpu=together, default=lambda x, kernel: max_pool(conv(x, kernel)))


# A gradient needs to know each window's maximum: then it is better to have all of conv's result in memory.
conv_max_pool.defvjp(
    lambda x, kernel: jax.vjp(lambda x, kernel: max_pool(conv(x, kernel)), x, kernel), lambda vjp, g: vjp(g)
)


def _xla(x: Array, kernel: Array, stride: int, edges: Edges) -> Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), edges, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, edges: Edges) -> Array:
    own = partial(_xla, stride=1, edges=edges)
    faster = winograd.conv if _pays(x, kernel) else phases.conv if phases.pays(kernel) else None
    if faster is None:
        return own(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(faster, edges=edges), default=own)


def _forward(x: Array, kernel: Array, edges: Edges) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, edges), (x, kernel)


def _backward(edges: Edges, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals

    def own(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, kernel: _xla(x, kernel, 1, edges), x, kernel)[1](g)

    def in_order(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return _input_gradient(kernel, g, edges), _kernel_gradient(x, g, edges)

    return lax.platform_dependent(x, kernel, g, cpu=in_order, default=own)


_conv.defvjp(_forward, _backward)


def _input_gradient(kernel: Array, g: Array, edges: Edges) -> Array:
    """The output's gradient, convolved with the kernel turned half around."""
    rows, columns = kernel.shape[:2]
    opposite = tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip((rows, columns), edges, strict=True))
    return _conv(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), opposite)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x: Array, g: Array, edges: Edges) -> Array:
    """The input, convolved with the output's gradient: channels take the place of the batch and the batch theirs."""
    if together := _images_together(x, g, edges):
        return _in_blocks(winograd.kernel_gradient, x, g, edges, together)
    return _in_blocks(_transposed_kernel_gradient, x, g, edges, IMAGES)


def _transposed_kernel_gradient(x: Array, g: Array, edges: Edges) -> Array:
    return _xla(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), 1, edges).transpose(1, 2, 0, 3)


def _in_blocks(gradient: Callable[..., Array], x: Array, g: Array, edges: Edges, largest: int) -> Array:
    """The sum over blocks of images that the cache holds.

    XLA fuses a transposition with whatever made its input, into a loop that jumps through all of memory once for each
    channel; it fuses nothing into a loop of blocks.
    """
    batch = len(x)
    least = -(-batch // largest)
    count = next((n for n in range(least, 2 * least) if batch % n == 0), least)
    if count == 1:
        return gradient(x, g, edges)
    block = -(-batch // count)

    def strided(a: Array) -> Array:
        """(block, count, …): a batch that is sharded over devices stays so, and each block with it."""
        a = jnp.pad(a, ((0, block * count - batch), (0, 0), (0, 0), (0, 0)))
        return a.reshape(block, count, *a.shape[1:])

    x, g = strided(x), strided(g)

    def part(i: Array | int) -> Array:
        return gradient(*(lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in (x, g)), edges)

    # Not from part(0) on: outside the loop it would be fused with what made x and g, which is then computed twice.
    wide = np.promote_types(x.dtype, np.float32)  # a sum of many bfloat16 forgets its small terms
    zeros = jnp.zeros_like(part(0), wide)
    return lax.fori_loop(0, count, lambda i, total: total + part(i).astype(wide), zeros).astype(x.dtype)


def _kernel_forward(x: Array, g: Array, edges: Edges) -> tuple[Array, tuple[Array, Array]]:
    return _kernel_gradient(x, g, edges), (x, g)


def _kernel_backward(edges: Edges, residuals: tuple[Array, Array], kernel: Array) -> tuple[Array, Array]:
    """It is linear in both, so its gradients are the two other operations."""
    x, g = residuals
    return _input_gradient(kernel, g, edges), _conv(x, kernel, edges)


_kernel_gradient.defvjp(_kernel_forward, _kernel_backward)


def _pays(x: Array, kernel: Array) -> bool:
    """Whether Winograd's filtering is faster on a CPU: three columns, a row of some tiles, and channels to multiply."""
    return _filters(x, kernel.shape[1]) and min(kernel.shape[2:]) >= 32 and max(kernel.shape[2:]) >= 64


def _images_together(x: Array, g: Array, edges: Edges) -> int:
    """How many images Winograd's kernel gradient takes at a time on a CPU; 0 where the plain one is faster.

    It wins where there are many channels, and where there are so few that the plain one, whose result is then small,
    keeps one core busy. Between them it does not (measured for every layer of VGG16 and SmallCNN, on two cores).
    """
    channels, pixels = (x.shape[3], g.shape[3]), g.shape[1] * g.shape[2]
    if not _filters(x, x.shape[2] + sum(edges[1]) - g.shape[2] + 1) or min(channels) < 32:
        return 0
    if min(channels) >= 256:
        return max(1, 25_000 // pixels)
    return max(1, 4_000 // pixels) if channels[0] * channels[1] <= 32 * 64 else 0


def _filters(x: Array, columns: int) -> bool:
    return columns == winograd.TAPS and x.shape[2] > winograd.TILE and x.dtype in (jnp.float32, jnp.float64)
