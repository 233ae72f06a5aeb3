"""A bias for every pixel, whose gradient, a sum over all pixels, is fast on the CPU."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def spread(bias: Float[Array, " channels"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """The bias of each channel at every place of `shape`, whose last axis is the channels. All derivatives exist.

    On a CPU it is the product of a column of ones and the bias. XLA makes a broadcast of it; its gradient stays a
    product, some times faster than the sum that belongs to a broadcast.
    """
    places = math.prod(shape[:-1])

    def product(bias: Array) -> Array:
        return (jnp.ones((places, 1), bias.dtype) @ bias[None]).reshape(shape)

    return lax.platform_dependent(bias, cpu=product, default=lambda bias: jnp.broadcast_to(bias, shape))
