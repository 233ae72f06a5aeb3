"""Convolution from or to few channels, as a convolution of blocks of pixels (space to depth).

A matrix product is slow where one of its sides is short, and with three channels the products of a convolution are
27 · 32 numbers large. A block of 2 × 2 neighbouring outputs needs 4 × 4 inputs. Seen as one pixel with four times the
channels, it takes some products with zero, and the larger ones are so much faster that they pay for it. (By these
products a NaN or an infinity in a pixel reaches the whole block.)
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops.winograd import Edges

FEW = 4


def is_faster(kernel: Float[Array, "rows columns inputs outputs"]) -> bool:
    """Whether it is faster on a CPU: few channels on one side, and a kernel larger than a pixel both ways."""
    return min(kernel.shape[:2]) > 1 and min(kernel.shape[2:]) <= FEW


def conv(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "rows columns inputs outputs"], edges: Edges
) -> Float[Array, "batch out_height out_width outputs"]:
    """As lax.conv_general_dilated with padding `edges`, at stride 1."""
    rows, columns, inputs, outputs = kernel.shape
    block = (2, 2) if outputs <= 32 else (1, 2)  # about 128 channels come out
    height, width = (n + sum(e) - k + 1 for n, e, k in zip(x.shape[1:3], edges, (rows, columns), strict=True))
    down, right = -(-height // block[0]), -(-width // block[1])
    reach = [-(-(k - 1) // b) + 1 for k, b in zip((rows, columns), block, strict=True)]  # in blocks

    ends = ((down + reach[0] - 1) * block[0], (right + reach[1] - 1) * block[1])
    padding = [(low, end - low - n, 0) for n, end, (low, _) in zip(x.shape[1:3], ends, edges, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *padding, (0, 0, 0)))
    x = x.reshape(x.shape[0], ends[0] // block[0], block[0], ends[1] // block[1], block[1], inputs)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], x.shape[1], x.shape[3], block[0] * block[1] * inputs)

    def shifted(i: int, j: int) -> Array:
        """The kernel for the output in row i and column j of a block."""
        ends = (reach[0] * block[0] - rows - i, reach[1] * block[1] - columns - j)
        return jnp.pad(kernel, ((i, ends[0]), (j, ends[1]), (0, 0), (0, 0)))

    all_ = jnp.stack([shifted(i, j) for i in range(block[0]) for j in range(block[1])], 3)
    all_ = all_.reshape(reach[0], block[0], reach[1], block[1], inputs, -1).transpose(0, 2, 1, 3, 4, 5)
    all_ = all_.reshape(*reach, -1, all_.shape[-1])

    y = lax.conv_general_dilated(x, all_, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y.reshape(y.shape[0], down, right, *block, outputs).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(y.shape[0], down * block[0], right * block[1], outputs)[:, :height, :width]
