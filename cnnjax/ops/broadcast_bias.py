"""Broadcasting of a bias over all pixels, whose gradient, a sum over them, is fast on a CPU."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cnnjax.ops.plain import is_plain


def broadcast_bias(bias: Float[Array, " channels"], shape: tuple[Any, ...]) -> Float[Array, "..."]:
    """`jnp.broadcast_to(bias, shape)`, where the last axis of `shape` is the channels. Sizes may be symbolic.

    Differentiable in forward and reverse mode, any number of times, and under vmap. On a CPU it is the product of a
    column of ones and the bias. XLA compiles it as a broadcast; its gradient stays a matrix product, which is faster
    than the sum that is a broadcast's gradient.
    """
    if is_plain():
        return jnp.broadcast_to(bias, shape)
    pixels = math.prod(shape[:-1])

    def product(bias: Array) -> Array:
        return (jnp.ones((pixels, 1), bias.dtype) @ bias[None]).reshape(shape)

    return lax.platform_dependent(bias, cpu=product, default=lambda bias: jnp.broadcast_to(bias, shape))
