"""Transforms that move pixels and leave their values alone: padding, rolling and cutting."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError
from cnnjax.image_size import to_size
from cnnjax.visualize.transforms.base import Limit, Transform

Mode = Literal["constant", "edge", "reflect", "wrap"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Pad(Transform):
    """See `pad`."""

    value: Limit
    pixels: int = field(metadata={"static": True})
    mode: Mode = field(metadata={"static": True})

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width channels"]:
        edges = ((self.pixels, self.pixels), (self.pixels, self.pixels), (0, 0))
        if self.mode == "constant":
            return jnp.pad(image, edges, constant_values=jnp.asarray(self.value, image.dtype))
        return jnp.pad(image, edges, mode=self.mode)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Jitter(Transform):
    """See `jitter`."""

    limit: Limit
    """As given to `jitter`; once bound, whole pixels (vertical, horizontal)."""
    reference_size: int | None = field(default=None, metadata={"static": True})

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "height width channels"]:
        limits = jnp.asarray(self.bind((image.shape[0], image.shape[1])).limit)
        offsets = jax.random.randint(key, (2,), -limits, limits + 1)
        return jnp.roll(image, offsets, axis=(0, 1))

    def bind(self, image_size: tuple[int, int]) -> "Jitter":
        if not isinstance(self.limit, float | int):
            return self
        return Jitter(np.asarray([self._pixels(self.limit, size) for size in image_size], np.int32))

    def _pixels(self, limit: float, size: int) -> int:
        if limit < 1:
            return int(limit * size)
        return max(1, round(limit * size / self.reference_size)) if self.reference_size else int(limit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Crop(Transform):
    """See `crop`. size: (height, width), or None until it is bound."""

    size: tuple[int, int] | None = field(metadata={"static": True})
    random: bool = field(metadata={"static": True})

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width channels"]:
        size = self.size or (image.shape[0], image.shape[1])
        room = [there - kept for there, kept in zip(image.shape[:2], size, strict=True)]
        if min(room) < 0:
            height, width, _ = image.shape
            raise UserError(f"crop({size[0]}, {size[1]}) is larger than the image of {height}×{width}: pad it before")
        if not self.random:
            top, left = room[0] // 2, room[1] // 2
            return image[top : top + size[0], left : left + size[1]]
        top, left = jax.random.randint(key, (2,), 0, jnp.asarray(room, jnp.int32) + 1)
        return jax.lax.dynamic_slice(image, (top, left, jnp.int32(0)), (*size, image.shape[2]))

    def bind(self, image_size: tuple[int, int]) -> "Crop":
        return self if self.size else Crop(image_size, self.random)


def pad(pixels: int, mode: Mode = "constant", value: float = 127.5) -> Transform:
    """Add a border of this many pixels on each side.

    mode: "constant" gives it the `value` (0 to 255), "edge" repeats the image's border, "reflect" mirrors the image
    without the border pixel, "wrap" continues with the other side. Raises UserError for another one.
    """
    if mode not in get_args(Mode):
        raise UserError(f"mode={mode!r} of pad must be one of {', '.join(get_args(Mode))}")
    if pixels < 0:
        raise UserError(f"pixels={pixels} of pad must not be negative")
    return Pad(float(value), int(pixels), mode)


def jitter(limit: float, reference_size: int | None = None) -> Transform:
    """Roll an image by an offset uniform on {-limit … limit} along each axis, wrapping around.

    limit: in pixels, or below 1 a fraction of the image's height and width, rounded down. reference_size: the image
    size for which `limit` is meant in pixels; it is then scaled with the image.

    As keras-vis 0.4.1, except for its scipy `wrap`, whose period is n - 1 where a roll's is n.
    Raises UserError for a negative limit.
    """
    if not limit >= 0:
        raise UserError(f"limit={limit:g} of jitter must not be negative: it goes in both directions")
    return Jitter(float(limit), reference_size)


def crop(size: int | tuple[int, int] | None = None, *, random: bool = True) -> Transform:
    """Cut out a part of an image, at a random place or from the middle.

    size: in pixels, an int or (height, width); by default that of the image that is drawn, so that what was padded
    gets its size back. Raises UserError if the image is smaller.
    """
    return Crop(None if size is None else to_size(size), random)
