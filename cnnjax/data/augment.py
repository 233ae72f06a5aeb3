"""Random transformations of training pictures on the device: (keys, images) -> images (article, section 4.3).

Geometry is Keras' ImageDataGenerator: rotation · shift · shear · zoom about the picture's centre, then the flip, but as
one affine resampling with bilinear interpolation. Randomness belongs to the picture: what a picture becomes depends on
its own key and on nothing else in the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cnnjax.cli.config import AugmentConfig


class Draw(NamedTuple):
    """One picture's transformation. Coordinates are (row, column) in pixels from the picture's centre."""

    matrix: Float[Array, "2 2"]
    """Where in the input an output pixel comes from: matrix @ output + offset."""
    offset: Float[Array, "2"]
    exposure: Float[Array, ""]
    """Factor on all values."""
    contrast: Float[Array, ""]
    """Factor on the differences from the picture's mean."""


def augment(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"], config: AugmentConfig
) -> Float[Array, "batch height width channels"]:
    """Transform each picture of [0, 1] at random, by its own key, within the config's ranges; results are in [0, 1].

    With `enabled=False` the pictures come back as they are.
    """
    if not config.enabled:
        return images
    height, width = images.shape[1:3]
    draws = jax.vmap(lambda key: draw(key, config, height, width))(keys)
    geometric = config.flip or any((config.rotation, config.shift, config.shear, config.zoom))
    if geometric:
        images = jax.vmap(lambda image, d: resample(image, d.matrix, d.offset, config.fill))(images, draws)
    if config.exposure or config.contrast:
        # (mean + (image - mean) · contrast) · exposure, with all factors collected: one pass over the pictures.
        exposure, contrast = (factor[:, None, None, None] for factor in (draws.exposure, draws.contrast))
        mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
        images = images * (exposure * contrast) + mean * (exposure * (1 - contrast))
    return jnp.clip(images, 0, 1)


def draw(key: Key[Array, ""], config: AugmentConfig, height: int, width: int) -> Draw:
    """Draw one picture's transformation. Each parameter has its own random number, so that one range changed leaves
    the other parameters as they were.
    """
    # All eight numbers in one call: on a CPU the generator's call costs more than its numbers.
    angle, rows, columns, shear, tall, wide, mirror, light = jax.random.uniform(key, (8,), minval=-1, maxval=1)
    angle = jnp.deg2rad(angle * config.rotation)
    shear = jnp.deg2rad(shear * config.shear)
    rotation = _matrix(jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle))
    shearing = _matrix(jnp.ones(()), -jnp.sin(shear), jnp.zeros(()), jnp.cos(shear))
    flip = jnp.where(mirror < 0, -1.0, 1.0) if config.flip else 1.0
    # The flip comes after the rest: it is the first thing done to an output coordinate on its way to the input.
    zooming = _matrix(1 + tall * config.zoom, jnp.zeros(()), jnp.zeros(()), (1 + wide * config.zoom) * flip)
    shift = jnp.stack([rows * config.shift * height, columns * config.shift * width])
    contrast = jax.random.uniform(jax.random.fold_in(key, 1), minval=-1, maxval=1)
    return Draw(
        matrix=_product(_product(rotation, shearing), zooming),
        offset=_product(rotation, shift[:, None])[:, 0],
        exposure=2 ** (light * config.exposure),
        contrast=1 + contrast * config.contrast,
    )


def resample(
    image: Float[Array, "height width channels"], matrix: Float[Array, "2 2"], offset: Float[Array, "2"], fill: str
) -> Float[Array, "height width channels"]:
    """Output pixel p takes the input's value at matrix @ p + offset, bilinearly; p is (row, column) from the centre.

    Outside the picture: "nearest" repeats the border, "reflect" mirrors with the border pixel twice, "constant" is
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
    """The two pixels around a position on one axis, both inside the picture, and the second one's weight."""
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
