"""What the networks are made of: convolution blocks, dense layers, dropout.

Parameters are float32; a layer computes in the type of its input. A kernel is cast to it, and its gradient back. A bias
is cast after it was spread over the places, so that its gradient, a sum over all of them, is a sum in float32.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.ops import broadcast_bias, conv, conv_max_pool, dense, recompute


class Conv(nnx.Module):
    """Kernel (3, 3, inputs, outputs) and bias of a same-padded convolution."""

    def __init__(self, inputs: int, outputs: int, *, init: Initializer, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width outputs"]:
        return conv(x, self.kernel[...].astype(x.dtype))

    def pooled(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch half_height half_width outputs"]:
        """The convolution's maxima in 2×2 windows."""
        return conv_max_pool(x, self.kernel[...].astype(x.dtype))

    def relu(self, z: Float[Array, "batch height width outputs"]) -> Float[Array, "batch height width outputs"]:
        """relu(z + bias)."""
        return jax.nn.relu(z + broadcast_bias(self.bias[...], z.shape).astype(z.dtype))


class Dense(nnx.Module):
    """x · kernel + bias."""

    def __init__(self, inputs: int, outputs: int, *, init: Initializer, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        z = dense(x, self.kernel[...].astype(x.dtype))
        return z + jnp.broadcast_to(self.bias[...], z.shape).astype(z.dtype)


def block(
    x: Float[Array, "batch height width inputs"], layers: Mapping[str, Conv], pool: str, remat: bool = False
) -> tuple[Float[Array, "batch half_height half_width outputs"], dict[str, Array]]:
    """Convolutions with relu, then 2×2 max pooling. Returns the pooled map, and every layer's activation by name.

    Adding a bias and relu are monotone, so they commute with the maximum, exactly: done after the pooling they cost a
    quarter. The last convolution's own activation, at full resolution, is computed apart; jit drops it if nobody
    reads it. With `remat` a gradient keeps only x, and computes what else it needs again.
    """

    def run(x: Array) -> tuple[Array, dict[str, Array]]:
        activations = {}
        for name, layer in layers.items():
            before, x = x, layer.relu(layer(x))
            activations[name] = x
        x = activations[pool] = layer.relu(layer.pooled(before))
        return x, activations

    pooled, activations = run(x)
    if remat:
        pooled = activations[pool] = recompute(lambda x: run(x)[0], x)
    return pooled, activations


def dropout(x: Float[Array, "batch ..."], rate: float, keys: Key[Array, " batch"] | None, layer: int) -> Array:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate); without keys, x itself.

    Example i's mask follows from keys[i] and the layer's number alone, not from the batch it is in.
    Source: article, section 4.1; Srivastava et al. 2014.
    """
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


def widened(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32 what is narrower, so that the last layer computes in it."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def scaled(units: int, width: float) -> int:
    """A layer's channel count at a width multiplier; at least one."""
    return max(1, round(units * width))


def require_side(model: str, side: int, halvings: int) -> None:
    """Raises UserError when `halvings` poolings of an image of this side leave nothing."""
    if side >> halvings == 0:
        raise UserError(f"{model} halves its input {halvings} times: use a side of {2**halvings} or more, not {side}")


def require_images(model: str, images: Array, side: int | None, channels: int) -> None:
    """Raises UserError unless the images are floats of shape (batch, side, side, channels); side None takes any."""
    if images.ndim != 4 or images.shape[-1] != channels or (side and images.shape[1:3] != (side, side)):
        expected = ", ".join(map(str, ("batch", side or "height", side or "width", channels)))
        raise UserError(f"{model} takes images of shape ({expected}), not {tuple(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"{model} takes cleaned float images, not {images.dtype}: divide by 255 and clean them first")
