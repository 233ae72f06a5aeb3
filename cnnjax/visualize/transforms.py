"""Keyed random changes of the image between the steps of the optimization: functions (key, image) -> image.

A `Transform` is a pytree whose leaves may change without compiling anything again. Plain functions work too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

TransformFunction = Callable[[jax.Array, jax.Array], jax.Array]
"""(typed PRNG key, image (height, width, channels)) -> image."""
TransformLike = Union["Transform", TransformFunction]

if TYPE_CHECKING:
    Limit = float | Array | np.ndarray
else:  # JAX also puts other things in the leaves' places.
    Limit = object


@dataclass(frozen=True, eq=False)
class Transform:
    """Base class of transforms: called with a typed key and one image (height, width, channels)."""

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width channels"]:
        raise NotImplementedError

    def bind(self, image_size: tuple[int, int]) -> "Transform":
        """This transform for images of this size (height, width)."""
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Function(Transform):
    """A plain function. jit recognizes it by its identity: pass the same function to several calls."""

    function: TransformFunction = field(metadata={"static": True})

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width channels"]:
        return self.function(key, image)


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


def jitter(limit: float, reference_size: int | None = None) -> Transform:
    """Roll an image by an offset uniform on {-limit … limit} along each axis, wrapping around.

    limit: in pixels, or below 1 a fraction of the image's height and width, rounded down. reference_size: the image
    size for which `limit` is meant in pixels; it is then scaled with the image.

    As keras-vis 0.4.1, except for its scipy `wrap`, whose period is n - 1 where a roll's is n.
    """
    return Jitter(float(limit), reference_size)


def compose(transforms: TransformLike | Sequence[TransformLike]) -> tuple[Transform, ...]:
    """Transforms as a tuple, plain functions wrapped."""
    several = transforms if isinstance(transforms, Sequence) else (transforms,)
    return tuple(one if isinstance(one, Transform) else Function(one) for one in several)


def apply(
    transforms: tuple[Transform, ...], key: Key[Array, ""], image: Float[Array, "height width channels"]
) -> Float[Array, "new_height new_width channels"]:
    """The transforms, one after the other. A single one gets the key itself, several get keys split from it."""
    keys = [key] if len(transforms) == 1 else jax.random.split(key, len(transforms))
    for transform, one in zip(transforms, keys, strict=True):
        image = transform(one, image)
    return image
