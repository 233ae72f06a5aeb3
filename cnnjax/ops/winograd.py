"""Winograd's minimal filtering along image rows: a convolution three columns wide at half the multiplications.

Four neighbouring outputs of a row take six inputs; at six points, the product of two polynomials replaces the twelve
multiplications of each row of the kernel by six (Winograd 1980; Lavin & Gray 2015, F(4, 3)). Down the columns the
convolution stays as it is. Filtering both ways would save more multiplications, but its additions, on a CPU, cost more
than they save below 256 channels.
"""

from functools import cache, reduce
from operator import add
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

Edges = tuple[tuple[int, int], tuple[int, int]]

TAPS, TILE = 3, 4
POINTS = (0, 1, -1, 2, -2)
"""And infinity. Small ones: rounding errors grow with their powers."""


class Transforms(NamedTuple):
    """outputs = output · ((taps · kernel) × (input · inputs)), for a tile of each."""

    input: Float64[np.ndarray, "points points"]
    taps: Float64[np.ndarray, "points taps"]
    output: Float64[np.ndarray, "tile points"]


@cache
def transforms() -> Transforms:
    """Toom and Cook's interpolation: evaluate both polynomials at the points, multiply, and interpolate transposed."""
    count = len(POINTS) + 1
    inputs, taps, outputs = np.zeros((count, count)), np.zeros((count, TAPS)), np.zeros((TILE, count))
    for i, point in enumerate(POINTS):
        others = [p for p in POINTS if p != point]
        inputs[i, :-1] = np.poly(others)[::-1]
        taps[i] = float(point) ** np.arange(TAPS) / np.prod(np.subtract(point, others))
        outputs[:, i] = float(point) ** np.arange(TILE)
    inputs[-1] = np.poly(POINTS)[::-1]
    taps[-1, -1] = outputs[-1, -1] = 1
    return Transforms(inputs, taps, outputs)


def conv(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "rows 3 inputs outputs"], edges: Edges
) -> Float[Array, "batch out_height out_width outputs"]:
    """As lax.conv_general_dilated with padding `edges`; relative error about 1e-6 in float32."""
    return _side_by_side(_outputs(x, kernel, edges))[:, :, : _width(x, edges)]


def conv_max_pool(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "rows 3 inputs outputs"], edges: Edges
) -> Float[Array, "batch half_height half_width outputs"]:
    """The maxima of the 2×2 windows of `conv`, without its whole result ever being in memory."""
    first, second, third, fourth = _outputs(x, kernel, edges)
    whole = first.shape[1] // 2 * 2
    pairs = (jnp.maximum(first, second), jnp.maximum(third, fourth))
    halves = [jnp.maximum(pair[:, 0:whole:2], pair[:, 1:whole:2]) for pair in pairs]
    return _side_by_side(halves)[:, :, : _width(x, edges) // 2]


def kernel_gradient(
    x: Float[Array, "batch height width inputs"], g: Float[Array, "batch out_height out_width outputs"], edges: Edges
) -> Float[Array, "rows 3 inputs outputs"]:
    """The gradient of `conv` for its kernel, where g is the output's: the same six products, one matrix each."""
    batch, height, width, outputs = g.shape
    inputs, rows = x.shape[-1], x.shape[1] + sum(edges[0]) - height + 1
    x = lax.pad(x, _zero(x), ((0, 0, 0), (*edges[0], 0), (0, 0, 0), (0, 0, 0)))
    g = lax.pad(g, _zero(g), ((0, 0, 0), (0, 0, 0), (0, -width % TILE, 0), (0, 0, 0)))
    products = []
    parts = _combine(transforms().output.T, [g[:, :, i::TILE] for i in range(TILE)])
    for there, here in zip(_inputs(x, width, edges[1][0]), parts, strict=True):
        window = jnp.concatenate([there[:, r : r + height] for r in range(rows)], -1)
        sums = (((0,), (0,)), ((), ()))
        products.append(lax.dot_general(window.reshape(-1, rows * inputs), here.reshape(-1, outputs), sums))
    found = jnp.stack(_combine(transforms().taps.T, products), 1)
    return found.reshape(rows, inputs, TAPS, outputs).swapaxes(1, 2)


def _outputs(x: Array, kernel: Array, edges: Edges) -> list[Array]:
    """The first, second, third and fourth outputs of the tiles, (batch, out height, tiles, outputs) each."""
    columns = [kernel[:, i : i + 1] for i in range(TAPS)]
    products = [
        lax.conv_general_dilated(part, taps, (1, 1), (edges[0], (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        for part, taps in zip(
            _inputs(x, _width(x, edges), edges[1][0]), _combine(transforms().taps, columns), strict=True
        )
    ]
    return _combine(transforms().output, products)


def _side_by_side(parts: list[Array]) -> Array:
    y = jnp.stack(parts, 3)
    return y.reshape(*y.shape[:2], y.shape[2] * len(parts), y.shape[-1])


def _width(x: Array, edges: Edges) -> int:
    return x.shape[2] + sum(edges[1]) - TAPS + 1


def _inputs(x: Array, width: int, low: int) -> list[Array]:
    """The transformed input, (batch, height, tiles, inputs) a point, for so many output columns."""
    tiles = -(-width // TILE)
    x = lax.pad(x, _zero(x), ((0, 0, 0), (0, 0, 0), (low, TILE * tiles + TAPS - 1 - low - x.shape[2], 0), (0, 0, 0)))
    last = TILE * (tiles - 1) + 1
    return _combine(transforms().input, [x[:, :, i : i + last : TILE] for i in range(len(POINTS) + 1)])


def _combine(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
    """matrix · parts, written out: XLA then makes one pass of it, without the zeros."""
    return [
        reduce(add, [p if c == 1 else float(c) * p for c, p in zip(row, parts, strict=True) if c]) for row in matrix
    ]


def _zero(x: Array) -> Array:
    return jnp.zeros((), x.dtype)
