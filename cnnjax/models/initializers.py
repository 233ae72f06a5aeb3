"""Initializers of parameters: those of `jax.nn.initializers`, drawn by one compiled program for arrays of all shapes.

XLA takes a second to compile a random draw, and compiles it for each shape again: a ResNet-18 took 14 seconds of CPU
time to create.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int, Key

from cnnjax import limits

CHUNK = 1 << 16
"""How many numbers a call of the program draws."""

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["uniform", "normal", "truncated_normal"]

_DRAWS = {
    "uniform": functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0),
    "normal": jax.random.normal,
    "truncated_normal": functools.partial(jax.random.truncated_normal, lower=-2.0, upper=2.0),
}
_STD = {"uniform": 3**-0.5, "normal": 1.0, "truncated_normal": 0.87962566103423978}
"""Standard deviation of what is drawn; the last is that of a normal distribution cut at ±2."""


def draw(key: Key[Array, ""], shape: Sequence[int], distribution: Distribution = "normal") -> Float[Array, "..."]:
    """Random float32 numbers: uniform in [-1, 1), standard normal, or standard normal cut at ±2.

    They are drawn in chunks, each with a key of its own, so that all shapes share one program. Inside of a
    transformation, such as `jax.jit`, the numbers are the same.
    """
    return _scaled(key, shape, distribution, np.float32(1), jnp.float32)


def zeros(count: int, beside: Array) -> Float[Array, " count"]:
    """Zeros in float32 for the bias beside a kernel. Only where the kernel is traced, XLA makes them.

    `jnp.zeros` compiles a program for each shape; and NumPy's zeros are in memory also where only shapes are wanted.
    """
    if isinstance(beside, jax.core.Tracer):
        return jnp.zeros(count, jnp.float32)
    return jax.device_put(np.zeros(count, np.float32))


def _scaled(
    key: Array, shape: Sequence[int], distribution: Distribution, factor: np.float32, dtype: jax.typing.DTypeLike
) -> Array:
    """The random numbers times a factor, which NumPy computes where nothing is traced: XLA would compile that, too."""
    size = math.prod(shape)
    count = -(-size // CHUNK)
    if isinstance(key, jax.core.Tracer):
        chunks = jax.vmap(functools.partial(_chunk, distribution), (None, 0))(key, jnp.arange(count))
        return (chunks.reshape(-1)[:size].reshape(shape) * factor).astype(dtype)
    if size > 2**24:
        limits.check_memory(8 * size, f"a layer of {limits.short(size)} numbers", "make the model narrower")
    numbers = np.empty(count * CHUNK, np.float32)
    for i in range(count):
        numbers[i * CHUNK : (i + 1) * CHUNK] = _chunk(distribution, key, np.int32(i))
    return jax.device_put((numbers[:size].reshape(shape) * factor).astype(dtype))


@functools.partial(jax.jit, static_argnums=0)
def _chunk(
    distribution: Distribution, key: Key[Array, ""], number: Int[Array, ""] | np.int32
) -> Float[Array, " chunk"]:
    return _DRAWS[distribution](jax.random.fold_in(key, number), shape=(CHUNK,), dtype=jnp.float32)


def variance_scaling(scale: float, mode: Mode, distribution: Distribution) -> Initializer:
    """Numbers of mean 0 and variance scale / fan, as `jax.nn.initializers.variance_scaling` defines it."""

    def init(key: Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32, out_sharding=None) -> Array:
        del out_sharding
        positions = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * positions, shape[-1] * positions
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        factor = np.float32(math.sqrt(scale / fan) / _STD[distribution])
        return _scaled(key, shape, distribution, factor, dtype)

    return init


def glorot_uniform() -> Initializer:
    """Glorot and Bengio 2010: uniform, with variance 2 / (fan_in + fan_out)."""
    return variance_scaling(1.0, "fan_avg", "uniform")


def he_normal() -> Initializer:
    """He et al. 2015: a normal distribution cut at two standard deviations, with variance 2 / fan_in."""
    return variance_scaling(2.0, "fan_in", "truncated_normal")
