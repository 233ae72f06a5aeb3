"""Convolution over batches of images."""

from typing import Literal

from jax import lax
from jaxtyping import Array, Float


def conv(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "rows columns inputs outputs"],
    stride: int = 1,
    padding: Literal["SAME", "VALID"] | int = "SAME",
) -> Float[Array, "batch out_height out_width outputs"]:
    """Cross-correlation of images (NHWC) with a kernel (HWIO), as the article's section 2.1 slides it.

    `padding`: "SAME" keeps the side at stride 1, "VALID" adds nothing, a number adds that many zeros at every edge.
    """
    edges = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), edges, dimension_numbers=("NHWC", "HWIO", "NHWC"))
