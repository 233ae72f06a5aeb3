"""Batch normalization (Ioffe & Szegedy 2015) whose running statistics are PyTorch's."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Statistics = tuple[Float[Array, " channels"], Float[Array, " channels"]]
"""Mean and variance of each channel."""


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` over the last axis, with PyTorch's conventions.

    The running variance is averaged from unbiased variances (divided by n - 1), while the batch is normalized with the
    biased one. The statistics are float32; the result has the dtype of x.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "... channels"], use_running_average: bool | None = None) -> Array:
        """x, normalized with the statistics of the batch, which are then averaged into the running ones.

        With `use_running_average` (by default the attribute of this name) the running statistics are used instead.
        """
        average = self.use_running_average if use_running_average is None else use_running_average
        y, statistics = self.normalize(x, train=not average)
        self.update(statistics)
        return y

    def normalize(self, x: Float[Array, "... channels"], *, train: bool) -> tuple[Array, Statistics]:
        """The normalized x, and the running statistics after this call. Changes nothing."""
        running = self.mean[...], self.var[...]
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        mean, variance = running
        if train:
            mean, variance, count = self._moments(wide)
            unbiased = variance * (count / max(count - 1, 1))
            keep = self.momentum
            running = tuple(
                keep * old + (1 - keep) * lax.stop_gradient(new.astype(old.dtype))
                for old, new in zip(running, (mean, unbiased), strict=True)
            )
        factor = lax.rsqrt(variance + self.epsilon) * self.scale[...]
        shape = (1,) * (x.ndim - 1) + (-1,)
        y = (wide - mean.reshape(shape)) * factor.reshape(shape) + self.bias[...].reshape(shape)
        return y.astype(x.dtype), running

    def update(self, statistics: Statistics) -> None:
        """Make these the running statistics."""
        self.mean[...], self.var[...] = statistics

    def _moments(self, x: Array) -> tuple[Array, Array, int]:
        """Mean and biased variance of each channel, and of how many values, over all devices of `axis_name`."""
        axes = tuple(range(x.ndim - 1))
        moments, count = jnp.stack([x.mean(axes), (x * x).mean(axes)]), x[..., 0].size
        if self.axis_name is not None:
            moments, count = lax.pmean(moments, self.axis_name), count * lax.axis_size(self.axis_name)
        mean, square = moments
        return mean, jnp.maximum(square - mean * mean, 0), count
