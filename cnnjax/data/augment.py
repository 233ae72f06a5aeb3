"""Random transformations of training images on the device: (keys, images) -> images (article, section 4.3).

The geometry is that of Keras' ImageDataGenerator: rotation · shift · shear · zoom about the image's centre, then the
flip, but as one affine resampling with bilinear interpolation. Randomness belongs to the example: the result depends on
the image and its own key, and on nothing else in the batch.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnnjax.errors import UserError


@dataclass(frozen=True)
class Augment:
    """A random transformation of each image within these ranges; the defaults are the article's (section 4.3).

    Call it with one key for each image and images in [0, 1]. Any function of that signature may take its place in
    `train.fit`. Raises UserError for a range that makes no sense.
    """

    rotation: float = 40.0
    """Degrees, in either direction."""
    shift: float = 0.2
    """Fraction of the height and of the width, in either direction."""
    shear: float = 0.2
    """Degrees, as Keras counts it."""
    zoom: float = 0.2
    """Each axis is scaled by a factor from [1 - zoom, 1 + zoom]."""
    flip: bool = True
    """Mirror left-right with probability one half."""
    fill: Literal["nearest", "constant", "reflect"] = "nearest"
    """The values outside the image: "nearest" repeats the border, "constant" is black, "reflect" mirrors the image."""
    exposure: float = 0.0
    """Multiply by 2**u, u uniform in [-exposure, exposure] (photographic stops)."""
    contrast: float = 0.0
    """Scale the differences from the image's mean by a factor from [1 - contrast, 1 + contrast]."""

    def __post_init__(self) -> None:
        for name in ("rotation", "shift", "shear", "exposure"):
            if not 0 <= getattr(self, name) <= 360:
                raise UserError(f"{name}={getattr(self, name)} must not be negative, and at most 360")
        for name in ("zoom", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0 and less than 1")
        if self.fill not in ("nearest", "constant", "reflect"):
            raise UserError(f"fill={self.fill!r} must be 'nearest', 'constant' or 'reflect'")

    def __call__(
        self, keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Transform each image by its own key. Images are in [0, 1], and so are the results."""
        height, width = images.shape[1:3]
        drawn = jax.vmap(lambda key: draw(key, self, height, width))(keys)
        if self.flip or any((self.rotation, self.shift, self.shear, self.zoom)):
            images = jax.vmap(lambda image, d: resample(image, d.matrix, d.offset, self.fill))(images, drawn)
        if self.exposure or self.contrast:
            # (mean + (image - mean) · contrast) · exposure, with all factors collected: one pass over the images.
            exposure, contrast = (factor[:, None, None, None] for factor in (drawn.exposure, drawn.contrast))
            mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
            images = images * (exposure * contrast) + mean * (exposure * (1 - contrast))
        return jnp.clip(images, 0, 1)


class Transformation(NamedTuple):
    """One image's transformation. Coordinates are (row, column) in pixels from the image's centre."""

    matrix: Float[Array, "2 2"]
    """Where in the input an output pixel comes from: matrix @ output + offset."""
    offset: Float[Array, "2"]
    exposure: Float[Array, ""]
    """Factor on all values."""
    contrast: Float[Array, ""]
    """Factor on the differences from the image's mean."""


def draw(key: Key[Array, ""], ranges: Augment, height: int, width: int) -> Transformation:
    """Draw one image's transformation. Each parameter has its own random number, so that a change of one range leaves
    the other parameters as they were.
    """
    # All eight numbers in one call: on a CPU the generator's call costs more than its numbers.
    angle, rows, columns, shear, tall, wide, mirror, light = jax.random.uniform(key, (8,), minval=-1, maxval=1)
    angle = jnp.deg2rad(angle * ranges.rotation)
    shear = jnp.deg2rad(shear * ranges.shear)
    rotation = _matrix(jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle))
    shearing = _matrix(jnp.ones(()), -jnp.sin(shear), jnp.zeros(()), jnp.cos(shear))
    flip = jnp.where(mirror < 0, -1.0, 1.0) if ranges.flip else 1.0
    # The flip comes after the rest, so it is the first thing done to an output coordinate on its way to the input.
    zooming = _matrix(1 + tall * ranges.zoom, jnp.zeros(()), jnp.zeros(()), (1 + wide * ranges.zoom) * flip)
    shift = jnp.stack([rows * ranges.shift * height, columns * ranges.shift * width])
    contrast = jax.random.uniform(jax.random.fold_in(key, 1), minval=-1, maxval=1)
    return Transformation(
        matrix=_product(_product(rotation, shearing), zooming),
        offset=_product(rotation, shift[:, None])[:, 0],
        exposure=2 ** (light * ranges.exposure),
        contrast=1 + contrast * ranges.contrast,
    )


def resample(
    image: Float[Array, "height width channels"], matrix: Float[Array, "2 2"], offset: Float[Array, "2"], fill: str
) -> Float[Array, "height width channels"]:
    """Output pixel p takes the input's value at matrix @ p + offset, bilinearly; p is (row, column) from the centre.

    Outside the image: "nearest" repeats the border, "reflect" mirrors with the border pixel twice, "constant" is
    black; all three as scipy.ndimage.affine_transform(order=1) has them.
    """
    height, width = image.shape[:2]
    row_centre, column_centre = (height - 1) / 2, (width - 1) / 2
    row = jnp.arange(height, dtype=image.dtype)[:, None] - row_centre
    column = jnp.arange(width, dtype=image.dtype)[None, :] - column_centre
    y = matrix[0, 0] * row + matrix[0, 1] * column + offset[0] + row_centre
    x = matrix[1, 0] * row + matrix[1, 1] * column + offset[1] + column_centre
    top, bottom, down = _taps(y, height, fill)
    left, right, across = _taps(x, width, fill)

    def at(rows: jax.Array, columns: jax.Array) -> jax.Array:
        return image.at[rows, columns].get(mode="promise_in_bounds")

    down, across = down[:, :, None], across[:, :, None]
    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(bottom, left) * (1 - across) + at(bottom, right) * across
    result = upper * (1 - down) + lower * down
    if fill == "constant":
        inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
        result = jnp.where(inside[:, :, None], result, jnp.zeros_like(result))
    return result


def _taps(position: jax.Array, size: int, fill: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The two pixels around a position on one axis, both inside the image, and the second one's weight."""
    if fill != "reflect":
        position = jnp.clip(position, 0, size - 1)
    below = jnp.floor(position)
    weight = position - below
    first = below.astype(jnp.int32)
    second = first + 1
    if fill == "reflect":

        def fold(index: jax.Array) -> jax.Array:
            index = jnp.mod(index, 2 * size)
            return jnp.minimum(index, 2 * size - 1 - index)

        return fold(first), fold(second), weight
    return first, jnp.minimum(second, size - 1), weight


def _matrix(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    return jnp.stack([jnp.stack([a, b]), jnp.stack([c, d])])


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A small matrix product, written out: accelerators would round a matmul's inputs to fewer bits."""
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)
