"""Transforms that resample an image bilinearly: scaling, rotation, and windows brought to another size."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnnjax.data.augment import resample
from cnnjax.errors import UserError
from cnnjax.visualize.transforms.base import Limit, Transform, Warp


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Scale(Warp):
    """See `scale`."""

    low: Limit
    high: Limit

    def matrix(self, key: Key[Array, ""]) -> Float[Array, "2 2"]:
        return jnp.eye(2) / jax.random.uniform(key, minval=self.low, maxval=self.high)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Rotate(Warp):
    """See `rotate`."""

    degrees: Limit

    def matrix(self, key: Key[Array, ""]) -> Float[Array, "2 2"]:
        limit = jnp.deg2rad(jnp.asarray(self.degrees))
        angle = jax.random.uniform(key, minval=-limit, maxval=limit)
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        return jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Window(Transform):
    """See `window`."""

    share: Limit
    end: Limit
    deviation: Limit
    spread: Limit
    smallest: float = field(default=0.05, metadata={"static": True})

    def at(self, progress: Array) -> "Window":
        return replace(self, share=self.share + (self.end - self.share) * progress)

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "height width channels"]:
        drawn = jax.random.normal(key, (3,))
        share = jnp.clip(self.share + self.deviation * drawn[0], self.smallest, 1).astype(image.dtype)
        room = jnp.asarray(image.shape[:2], image.dtype) - 1  # between the centres of the outermost pixels
        # The window stays inside: where its centre would be too near the border, it is moved back.
        offset = jnp.clip((self.spread * drawn[1:]).astype(image.dtype), (share - 1) / 2, (1 - share) / 2) * room
        return resample(image, jnp.eye(2, dtype=image.dtype) * share, offset, "nearest")


def scale(low: float, high: float) -> Transform:
    """Magnify an image about its centre by a factor uniform on [low, high]; below 1 its border is repeated around it.

    Raises UserError for a factor that is not positive, and low > high.
    """
    if not 0 < low <= high:
        raise UserError(f"scale({low:g}, {high:g}) needs two positive factors, the smaller one first")
    return Scale(float(low), float(high))


def rotate(degrees: float) -> Transform:
    """Rotate an image about its centre by an angle uniform on [-degrees, degrees]. Raises UserError if negative."""
    if degrees < 0:
        raise UserError(f"degrees={degrees:g} of rotate must not be negative: it goes in both directions")
    return Rotate(float(degrees))


def window(share: float, end: float | None = None, *, deviation: float = 0.05, spread: float = 0.15) -> Transform:
    """Show a random part of an image, magnified to the image's size (MaCo, Fel et al. 2023).

    The part's height and width are a share of the image's, drawn from a normal distribution about `share` with this
    standard deviation, and at least 0.05; its centre is normal about the image's with the standard deviation `spread`,
    a share as well, and moved so that the part lies inside. end: what `share` becomes, linearly, until the last step.
    Raises UserError for a share outside of 0 to 1, and a negative deviation.
    """
    end = share if end is None else end
    if not (0 < share <= 1 and 0 < end <= 1):
        raise UserError(f"window({share:g}, {end:g}) needs shares of the image's size, above 0 and at most 1")
    if deviation < 0 or spread < 0:
        raise UserError(f"deviation={deviation:g} and spread={spread:g} of window must not be negative")
    return Window(float(share), float(end), float(deviation), float(spread))
