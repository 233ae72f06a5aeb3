"""The matrix product of a dense layer, with an input gradient that is fast on a CPU.

There, a product with a transposed matrix takes XLA two to four times as long as the same product with that matrix on
the left, if the other matrix has few rows, as a batch has. Written the other way around, XLA turns it back, except
within a loop. So the input gradient is a loop over blocks of the kernel's rows.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.errors import UserError
from cnnjax.ops import trilinear

ROWS = 1024
"""About how many rows of a kernel are multiplied at a time."""


def dense(x: Float[Array, "batch inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "batch outputs"]:
    """x · kernel. Differentiable in forward and reverse mode, any number of times, and under vmap.

    Raises UserError if the kernel has another number of rows than x has columns.
    """
    if x.shape[1] != kernel.shape[0]:
        raise UserError(
            f"the kernel of shape {tuple(kernel.shape)} takes {kernel.shape[0]} features: "
            f"use {x.shape[1]} rows, as many as the inputs of shape {tuple(x.shape)} have features"
        )
    return trilinear.derivative(_Product(jax.config.jax_default_matmul_precision), 2, x, kernel)


@dataclass(frozen=True)
class _Product(trilinear.Form):
    """⟨x · kernel, g⟩."""

    axes: ClassVar = ({"batch": 0, "inputs": 1}, {"inputs": 0, "outputs": 1}, {"batch": 0, "outputs": 1})

    def plain(self, role: trilinear.Role, first: Array, second: Array) -> Array:
        """The same operations as JAX's gradients of a matrix product."""
        if role == 0:  # g · kernelᵀ
            return self._dot(second, first, (1, 1))
        if role == 1:  # xᵀ · g, as (gᵀ · x)ᵀ
            return self._dot(second, first, (0, 0)).T
        return self._dot(first, second, (1, 0))

    def on_cpu(self, role: trilinear.Role, first: Array, second: Array, in_loop: bool = False) -> Array:
        if role != 0:
            return self.plain(role, first, second)
        kernel, g = first, second
        inputs, least = len(kernel), max(2, len(kernel) // ROWS)
        count = next((n for n in range(least, 2 * least) if inputs % n == 0), 0)
        if not count or not isinstance(g.shape[0], int) or g.shape[0] < 4:
            return self.plain(role, kernel, g)
        blocks = kernel.reshape(count, inputs // count, -1)
        return lax.map(lambda block: jnp.einsum("io,bo->ib", block, g), blocks).reshape(inputs, -1).T

    def _dot(self, left: Array, right: Array, contracted: tuple[int, int]) -> Array:
        dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
        return lax.dot_general(left, right, dimensions, precision=self.precision)
