"""What the models are made of: convolutions, batch normalization, dense layers.

Parameters are float32; a layer computes in the dtype of its input. A kernel is cast to it, and its gradient back. A
bias is cast after it was broadcast, so that its gradient, a sum over all positions, is a sum in float32.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from cnnjax.errors import UserError
from cnnjax.models import initializers
from cnnjax.models.batch_norm import BatchNorm, Statistics
from cnnjax.ops import broadcast_bias, conv, conv_max_pool, dense, max_pool, recompute


class Conv(nnx.Module):
    """A convolution with kernel (size, size, inputs, outputs) and, unless `bias` is False, a bias.

    padding: zeros at each edge; by default (size - 1) // 2, which at stride 1 keeps the size of the image if `size` is
    odd.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
        init: Initializer,
        rngs: nnx.Rngs,
    ):
        self.stride, self.padding = stride, (size - 1) // 2 if padding is None else padding
        kernel = init(rngs.params(), (size, size, inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel)
        if bias:
            self.bias = nnx.Param(initializers.zeros(outputs, kernel))

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch out_height out_width outputs"]:
        """The convolution, without the bias."""
        return conv(x, self.kernel[...].astype(x.dtype), self.stride, self.padding)

    def pooled(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch half_height half_width outputs"]:
        """The convolution's maxima in 2×2 windows. For a kernel of size 3 and stride 1."""
        return conv_max_pool(x, self.kernel[...].astype(x.dtype))

    def add_bias(self, z: Float[Array, "batch height width outputs"]) -> Float[Array, "batch height width outputs"]:
        return z + broadcast_bias(self.bias[...], z.shape).astype(z.dtype)

    def relu(self, z: Float[Array, "batch height width outputs"]) -> Float[Array, "batch height width outputs"]:
        """relu(z + bias)."""
        return jax.nn.relu(self.add_bias(z))


class Dense(nnx.Module):
    """x · kernel + bias."""

    def __init__(self, inputs: int, outputs: int, *, init: Initializer, rngs: nnx.Rngs):
        kernel = init(rngs.params(), (inputs, outputs), jnp.float32)
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(initializers.zeros(outputs, kernel))

    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        z = dense(x, self.kernel[...].astype(x.dtype))
        return z + jnp.broadcast_to(self.bias[...], z.shape).astype(z.dtype)


def conv_block(
    x: Float[Array, "batch height width inputs"],
    layers: Mapping[str, Conv],
    pool: str,
    remat: bool = False,
    perturbations: Mapping[str, Array] | None = None,
    norms: Mapping[str, BatchNorm] | None = None,
    train: bool = False,
) -> tuple[Float[Array, "batch half_height half_width outputs"], dict[str, Array]]:
    """Convolutions with relu, then 2×2 max pooling. Returns the pooled map, and every layer's activation by name.

    Adding a bias and relu are monotone, so they commute with the maximum, exactly: done after the pooling they cost a
    quarter. The last convolution's own activation, at full resolution, is computed separately; jit drops it if nobody
    reads it. It is what is pooled only if it has a perturbation, or is normalized.

    remat: a gradient keeps only x, and computes what else it needs again. norms: the batch normalization between the
    bias and the relu of the convolution of the same name.
    """
    perturbations, norms = perturbations or {}, norms or {}

    def run(x: Array) -> tuple[Array, tuple[dict[str, Array], dict[str, Statistics]]]:
        activations: dict[str, Array] = {}
        statistics: dict[str, Statistics] = {}

        def record(name: str, x: Array) -> Array:
            activations[name] = x = perturb(name, x, perturbations)
            return x

        for name, layer in layers.items():
            before, z = x, layer(x)
            if name in norms:
                z = record(name, layer.add_bias(z))
                z, statistics[name] = norms[name].normalize(z, train=train)
                x = record(name.replace("conv", "bn"), jax.nn.relu(z))
            else:
                x = record(name, layer.relu(z))
        plain = name in norms or name in perturbations
        pooled = max_pool(x) if plain else layer.relu(layer.pooled(before))
        return record(pool, pooled), (activations, statistics)

    pooled, (activations, statistics) = run(x)
    if remat:
        pooled = activations[pool] = recompute(lambda x: run(x)[0], x)
    for name, values in statistics.items():
        norms[name].update(values)
    return pooled, activations


def perturb(name: str, x: Float[Array, "..."], perturbations: Mapping[str, Array]) -> Float[Array, "..."]:
    """x, plus the perturbation of this name if there is one."""
    return x + perturbations[name].astype(x.dtype) if name in perturbations else x


def promote_to_f32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in float32 if it is narrower, so that the last layer computes in float32."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def scale_width(units: int, multiplier: float) -> int:
    """The number of channels of a layer at a width multiplier; at least one."""
    return max(1, round(units * multiplier))


def size_config(image_size: tuple[int, int]) -> int | list[int]:
    """An image size as JSON has it: one number if height and width are equal."""
    return image_size[0] if image_size[0] == image_size[1] else list(image_size)


def check_size(model: str, image_size: tuple[int, int], halvings: int) -> None:
    """Raises UserError when `halvings` poolings of an image of this size leave nothing."""
    if min(image_size) >> halvings == 0:
        shown = image_size[0] if image_size[0] == image_size[1] else image_size
        raise UserError(
            f"{model} halves its input {halvings} times: use an image_size of {2**halvings} or more, not {shown}"
        )


def check_positive(model: str, **arguments: float) -> None:
    """Raises UserError for an argument that is not positive, or not finite."""
    for name, value in arguments.items():
        if not 0 < value < math.inf:
            raise UserError(f"{model} needs a positive {name}, not {value}")


def check_dropout(model: str, rate: float) -> None:
    """Raises UserError for a rate of dropout outside of [0, 1)."""
    if not 0 <= rate < 1:
        raise UserError(f"{model} needs a dropout from 0 to below 1, not {rate}")


def check_images(model: str, images: Array, image_size: tuple[int, int] | None, channels: int) -> None:
    """Raises UserError unless the images are floats of shape (batch, *image_size, channels); None takes any size."""
    if images.ndim != 4 or images.shape[-1] != channels or (image_size and images.shape[1:3] != image_size):
        expected = ", ".join(map(str, ("batch", *(image_size or ("height", "width")), channels)))
        raise UserError(f"{model} takes images of shape ({expected}), not {tuple(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"{model} takes normalized float images, not {images.dtype}: divide by 255 and normalize them first"
        )
