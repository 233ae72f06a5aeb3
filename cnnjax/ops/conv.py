"""Convolution over batches of images, fast on every platform and differentiable in both modes.

On GPUs and TPUs the compiled program holds XLA's own convolutions, for which their libraries choose an algorithm. On a
CPU, XLA's convolution is replaced where another algorithm is faster: Winograd's minimal filtering (`winograd.py`) for
many channels, and blocks of pixels (`space_to_depth.py`) for few. `trilinear.py` makes both kinds one differentiable
operation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from cnnjax.errors import UserError
from cnnjax.ops import space_to_depth, trilinear, winograd
from cnnjax.ops.pool import max_pool
from cnnjax.ops.winograd import Edges

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int = 1,
    padding: Literal["SAME", "VALID"] | int = "SAME",
) -> Float[Array, "batch out_height out_width outputs"]:
    """Cross-correlation of images (NHWC) with a kernel (HWIO). Source: article, section 2.1.

    `stride` is 1 or more. `padding`: "SAME" keeps height and width at stride 1 and divides them by a larger stride,
    rounding up; "VALID" adds nothing; a number adds that many zeros at every edge. The output has
    (height + padding - rows) / stride + 1 rows, rounded down, where `padding` counts both edges; columns likewise.

    Differentiable in forward and reverse mode, any number of times, and under vmap. On a CPU, values of x that are not
    finite also reach neighbouring outputs whose windows do not contain them.

    Raises UserError if the kernel has another number of input channels than x, or if stride or padding is not one of
    the values above.
    """
    _require(x, kernel, stride, padding)
    if isinstance(padding, int):
        edges = ((padding, padding), (padding, padding))
    else:
        edges = tuple(lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding))
    if stride > 1:
        return lax.conv_general_dilated(x, kernel, (stride, stride), edges, dimension_numbers=LAYOUT)
    return trilinear.derivative(
        _Convolution(jax.config.jax_default_matmul_precision, edges, kernel.shape[:2]), 2, x, kernel
    )


def _require(x: Array, kernel: Array, stride: int, padding: str | int) -> None:
    if x.shape[3] != kernel.shape[2]:
        raise UserError(
            f"the kernel of shape {tuple(kernel.shape)} takes images of {kernel.shape[2]} channels: "
            f"use {x.shape[3]} input channels, as the images of shape {tuple(x.shape)} have"
        )
    if stride < 1:
        raise UserError(f"a convolution's stride is 1 or more: use stride=1 instead of {stride}")
    if padding not in ("SAME", "VALID") and not (isinstance(padding, int) and padding >= 0):
        raise UserError(
            f"a convolution's padding is 'SAME', 'VALID' or a number of pixels: use one of these, not {padding!r}"
        )


@jax.custom_jvp
def conv_max_pool(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "rows columns inputs outputs"]
) -> Float[Array, "batch half_height half_width outputs"]:
    """`max_pool(conv(x, kernel))`. Differentiable in forward and reverse mode, any number of times, and under vmap.

    On a CPU, where no derivative is asked for, it does not store the convolution's full result. Raises UserError as
    `conv` and `max_pool` do.
    """
    _require(x, kernel, 1, "SAME")
    if not _winograd_is_faster(x, kernel) or x.shape[1] < 2:
        return _conv_then_max_pool(x, kernel)
    edges = tuple(lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), "SAME"))
    together = partial(winograd.conv_max_pool, edges=edges)
    return lax.platform_dependent(x, kernel, cpu=together, default=_conv_then_max_pool)


def _conv_then_max_pool(x: Array, kernel: Array) -> Array:
    return max_pool(conv(x, kernel))


def _conv_max_pool_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array | SymbolicZero, Array | SymbolicZero]
) -> tuple[Array, Array]:
    """A derivative needs each window's maximum, so that here the convolution's full result is stored."""
    perturbed = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]

    def function(*some: Array) -> Array:
        arguments = list(primals)
        for i, argument in zip(perturbed, some, strict=True):
            arguments[i] = argument
        return _conv_then_max_pool(*arguments)

    return jax.jvp(function, [primals[i] for i in perturbed], [tangents[i] for i in perturbed])


conv_max_pool.defjvp(_conv_max_pool_jvp, symbolic_zeros=True)


@dataclass(frozen=True)
class _Convolution(trilinear.Form):
    """⟨conv(x, kernel), g⟩ at stride 1."""

    edges: Edges
    window: tuple[int, int]
    """Rows and columns of the kernel."""

    axes: ClassVar = ({"batch": 0, "inputs": 3}, {"inputs": 2, "outputs": 3}, {"batch": 0, "outputs": 3})

    def plain(self, role: trilinear.Role, first: Array, second: Array) -> Array:
        """The same operations as JAX's gradients of a convolution."""
        if role == 0:
            kernel, g = first, second
            return self._xla(g, lax.rev(kernel, (0, 1)), self._opposite(), ("NHWC", "HWOI", "NHWC"))
        if role == 1:
            return self._xla(first, second, self.edges, ("CHWN", "IHWO", "HWNC"))
        return self._xla(first, second, self.edges, LAYOUT)

    def on_cpu(self, role: trilinear.Role, first: Array, second: Array, in_loop: bool = False) -> Array:
        if role == 1:
            return self._kernel_gradient(first, second, in_loop)
        if role == 0:
            # The output's gradient, convolved with the kernel turned half around. Its channels change places here, for
            # within a loop XLA is slow if a convolution's layout names them the other way around.
            x, kernel, edges = second, lax.rev(first, (0, 1)).swapaxes(2, 3), self._opposite()
        else:
            x, kernel, edges = first, second, self.edges
        faster = _faster(x, kernel)
        return faster(x, kernel, edges) if faster else self._xla(x, kernel, edges, LAYOUT)

    def _opposite(self) -> Edges:
        return tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip(self.window, self.edges, strict=True))

    def _xla(self, left: Array, right: Array, edges: Edges, layout: tuple[str, str, str]) -> Array:
        return lax.conv_general_dilated(left, right, (1, 1), edges, dimension_numbers=layout, precision=self.precision)

    def _kernel_gradient(self, x: Array, g: Array, in_loop: bool) -> Array:
        # XLA's own convolution takes 15 to 250 times as long within a loop as outside it; matrix products do not.
        gradient = partial(winograd.kernel_gradient, edges=self.edges)
        together = _images_together(x, g, self.window[1])
        if in_loop and not together:
            gradient = gradient if _filters(x, self.window[1]) else self._window_products
            together = _images_in_cache(g)
        if not together or not isinstance(x.shape[0], int):  # a symbolic batch cannot be divided into blocks
            return self.plain(1, x, g)
        return _in_blocks(gradient, x, g, together)

    def _window_products(self, x: Array, g: Array) -> Array:
        """The kernel's gradient as one matrix product: every window of x as a row, times g."""
        height, width = g.shape[1:3]
        (rows, columns), zero = self.window, jnp.zeros((), x.dtype)
        x = lax.pad(x, zero, ((0, 0, 0), *((low, high, 0) for low, high in self.edges), (0, 0, 0)))
        windows = [x[:, r : r + height, c : c + width] for r in range(rows) for c in range(columns)]
        windows = jnp.concatenate(windows, -1).reshape(-1, rows * columns * x.shape[-1])
        sums = (((0,), (0,)), ((), ()))
        found = lax.dot_general(windows, g.reshape(-1, g.shape[-1]), sums, precision=self.precision)
        return found.reshape(rows, columns, x.shape[-1], g.shape[-1])


def _in_blocks(gradient: Callable[[Array, Array], Array], x: Array, g: Array, largest: int) -> Array:
    """The sum over blocks of images that fit into the cache."""
    batch = x.shape[0]
    least = max(1, -(-batch // largest))
    count = next((n for n in range(least, 2 * least) if batch % n == 0), least)
    if count == 1:
        return gradient(x, g)
    block = -(-batch // count)

    def strided(a: Array) -> Array:
        """(block, count, …): a batch that is sharded over devices stays so, and each block with it."""
        a = jnp.pad(a, ((0, block * count - batch), (0, 0), (0, 0), (0, 0)))
        return a.reshape(block, count, *a.shape[1:])

    x, g = strided(x), strided(g)

    def part(i: Array | int) -> Array:
        return gradient(*(lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in (x, g)))

    # Not from part(0) on: outside the loop it would be fused with what made x and g, which is then computed twice.
    wide = np.promote_types(x.dtype, np.float32)  # a sum of many bfloat16 numbers loses its small terms
    zeros = jnp.zeros_like(part(0), wide)
    return lax.fori_loop(0, count, lambda i, total: total + part(i).astype(wide), zeros).astype(x.dtype)


def _faster(x: Array, kernel: Array) -> Callable[[Array, Array, Edges], Array] | None:
    """The algorithm that is faster than XLA's convolution on a CPU."""
    if _winograd_is_faster(x, kernel):
        return winograd.conv
    return space_to_depth.conv if space_to_depth.is_faster(kernel) else None


def _winograd_is_faster(x: Array, kernel: Array) -> bool:
    """Whether Winograd's filtering is faster on a CPU: three columns, a row of some tiles, and channels to multiply."""
    return _filters(x, kernel.shape[1]) and min(kernel.shape[2:]) >= 32 and max(kernel.shape[2:]) >= 64


def _images_together(x: Array, g: Array, columns: int) -> int:
    """How many images Winograd's kernel gradient takes at a time on a CPU; 0 where the plain one is faster.

    It wins where there are many channels, and where there are so few that the plain one, whose result is then small,
    keeps one core busy. Between them it does not (measured for every layer of VGG16 and SmallCNN, on two cores).
    """
    channels, pixels = (x.shape[3], g.shape[3]), max(1, g.shape[1] * g.shape[2])
    if not _filters(x, columns) or min(channels) < 32:
        return 0
    if min(channels) >= 256:
        return max(1, 25_000 // pixels)
    return _images_in_cache(g) if channels[0] * channels[1] <= 32 * 64 else 0


def _images_in_cache(g: Array) -> int:
    """How many images are processed at a time, so that they stay in a core's cache."""
    return max(1, 4_000 // max(1, g.shape[1] * g.shape[2]))


def _filters(x: Array, columns: int) -> bool:
    return columns == winograd.TAPS and x.shape[2] > winograd.TILE and x.dtype in (jnp.float32, jnp.float64)
