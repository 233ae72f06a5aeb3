"""Colours as photographs have them: a linear map from decorrelated values to red, green and blue."""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.data.as_unit import as_unit
from cnnjax.data.dataset import Split
from cnnjax.errors import UserError

IMAGENET = np.asarray([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float32)
"""A square root of the covariance of ImageNet's colours, from lucid (`color_correlation_svd_sqrt`)."""

Matrix = Float[Array | np.ndarray, "channels channels"]


def normalized(root: Float[np.ndarray, "channels channels"]) -> Float[np.ndarray, "channels channels"]:
    """A square root of a covariance, with its longest column of length 1."""
    return (root / np.linalg.norm(root, axis=0).max()).astype(np.float32)


def imagenet_colors() -> Float[np.ndarray, "3 3"]:
    """lucid's matrix for the colours of ImageNet: brightness, blue to orange and green to purple, in its columns."""
    return normalized(IMAGENET)


def color_statistics(images: Split | Array | np.ndarray, limit: int = 1000) -> Float[np.ndarray, "channels channels"]:
    """The matrix for the colours of a data set, to be given to `fourier` and `maco`.

    images: a split, such as `dataset.train`, or an array (number, height, width, channels), uint8 or in [0, 1].
    limit: how many images are looked at, evenly spread.

    Decorrelated values v of equal variance become colours matrix @ v with the covariance of the images' pixels, up to
    a factor. Raises UserError for images of a single colour.
    """
    count, total, products = 0, 0.0, 0.0
    for image in some_images(images, limit):
        flat = image.reshape(-1, image.shape[-1])
        count, total, products = count + len(flat), total + flat.sum(axis=0), products + flat.T @ flat
    mean = total / count
    vectors, values, _ = np.linalg.svd(products / count - np.outer(mean, mean))
    if not values[0] > 1e-12:
        raise UserError("all pixels of these images have the same colour: give images that have several")
    # The sign of a column is free: here each direction brightens.
    signs = np.where(vectors.sum(axis=0) < 0, -1, 1)
    return normalized(vectors * signs * np.sqrt(values))


def some_images(images: Split | Array | np.ndarray, limit: int) -> "itertools.chain[np.ndarray]":
    """At most so many of the images, evenly spread, each in [0, 1] as float64 (height, width, channels).

    Raises UserError if there is none.
    """
    if not len(images):
        raise UserError("there are no images to take statistics of: give at least one")

    def one(index: int) -> list[np.ndarray]:
        found = images[index]
        found = np.asarray(found["image"] if isinstance(found, dict) else found)
        found = found[..., None] if found.ndim == 2 else found
        return [np.asarray(as_unit(jnp.asarray(found)[None], found.shape[-1])[0], np.float64)]

    chosen = np.unique(np.linspace(0, len(images) - 1, min(limit, len(images))).astype(int))
    return itertools.chain.from_iterable(one(int(index)) for index in chosen)


def recorrelate(
    image: Float[Array, "height width channels"], matrix: Float[Array, "channels channels"] | None
) -> Float[Array, "height width channels"]:
    """The colours of decorrelated values; without a matrix, these values."""
    return image if matrix is None else _mix(image, matrix)


def decorrelate(
    image: Float[Array, "height width channels"], matrix: Float[Array, "channels channels"] | None
) -> Float[Array, "height width channels"]:
    """The inverse of `recorrelate`."""
    return image if matrix is None else _mix(image, jnp.linalg.inv(matrix))


def matrix_for(colors: Matrix | None, is_on: bool, channels: int) -> Float[Array, "channels channels"] | None:
    """The matrix in use: the given one, ImageNet's for three channels, or none.

    Raises UserError if the given one is of another number of channels.
    """
    if not is_on:
        return None
    if colors is None:
        return jnp.asarray(imagenet_colors()) if channels == 3 else None
    if colors.shape != (channels, channels):
        raise UserError(
            f"colors is a matrix of {' × '.join(map(str, colors.shape))}, and the images have {channels} channels: "
            "give color_statistics of such images"
        )
    return jnp.asarray(colors)


def _mix(image: Array, matrix: Array) -> Array:
    """matrix @ each pixel: written out, since accelerators would round a matmul's inputs to fewer bits."""
    columns = matrix.T.astype(image.dtype)
    return sum(image[..., i, None] * columns[i][None, None] for i in range(len(columns)))  # type: ignore[return-value]
