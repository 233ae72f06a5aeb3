"""What a transform is, and how several are applied one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cnnjax.data.augment import resample

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

    def at(self, progress: jax.Array) -> "Transform":
        """This transform when this share of a stage's steps is done."""
        return self


@dataclass(frozen=True, eq=False)
class Warp(Transform):
    """Base class of linear changes of an image's coordinates about its centre. Several in a row are one resampling.

    The image keeps its size; outside of it its border is repeated.
    """

    def matrix(self, key: Key[Array, ""]) -> Float[Array, "2 2"]:
        """Where in the input an output pixel comes from: matrix @ (row, column), both in pixels from the centre."""
        raise NotImplementedError

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "height width channels"]:
        return _warp(self.matrix(key), image)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Function(Transform):
    """A plain function. jit recognizes it by its identity: pass the same function to several calls."""

    function: TransformFunction = field(metadata={"static": True})

    def __call__(
        self, key: Key[Array, ""], image: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width channels"]:
        return self.function(key, image)


def compose(transforms: TransformLike | Sequence[TransformLike]) -> tuple[Transform, ...]:
    """Transforms as a tuple, plain functions wrapped."""
    several = transforms if isinstance(transforms, Sequence) else (transforms,)
    return tuple(one if isinstance(one, Transform) else Function(one) for one in several)


def apply(
    transforms: tuple[Transform, ...], key: Key[Array, ""], image: Float[Array, "height width channels"]
) -> Float[Array, "new_height new_width channels"]:
    """The transforms, one after the other. A single one gets the key itself, several get keys split from it.

    Warps that follow each other are one: the image is interpolated once, and nothing is cut off between them.
    """
    keys = [key] if len(transforms) == 1 else jax.random.split(key, len(transforms))
    pairs = list(zip(transforms, keys, strict=True))
    for are_warps, group in groupby(pairs, lambda pair: isinstance(pair[0], Warp)):
        if are_warps:
            matrices = [one.matrix(own) for one, own in group if isinstance(one, Warp)]
            image = _warp(reduce(_product, matrices), image)
        else:
            for transform, own in group:
                image = transform(own, image)
    return image


def _warp(
    matrix: Float[Array, "2 2"], image: Float[Array, "height width channels"]
) -> Float[Array, "height width channels"]:
    return resample(image, matrix.astype(image.dtype), jnp.zeros(2, image.dtype), "nearest")


def _product(a: Float[Array, "2 2"], b: Float[Array, "2 2"]) -> Float[Array, "2 2"]:
    """A matrix product, written out: accelerators would round a matmul's inputs to fewer bits."""
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)
