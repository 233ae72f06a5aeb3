"""Stages of several image sizes: what the next one starts from (DeepDream's octaves)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from cnnjax.data.as_unit import one_as_unit

Start = UInt8[Array | np.ndarray, "height width channels"] | Float[Array | np.ndarray, "height width channels"]
"""An image to start from: uint8, or in [0, 1]."""


@functools.partial(jax.jit, static_argnames="size")
def resize(
    images: Float[Array, "batch height width channels"], size: tuple[int, int]
) -> Float[Array, "batch new_height new_width channels"]:
    """Images at another size (height, width), bilinearly, without aliasing; at their own size as they are."""
    if images.shape[1:3] == size:
        return images
    return jax.image.resize(images, (len(images), *size, images.shape[-1]), "linear")


def to_start(image: Start, size: tuple[int, int], channels: int) -> Float[Array, "1 height width channels"]:
    """An image to start from in 0 to 255, at this size. Raises UserError for what is no image of so many channels."""
    return resize(255 * one_as_unit(image, channels, "start")[None], size)


def restart(
    shown: UInt8[Array, "batch height width channels"],
    size: tuple[int, int],
    start: Float[Array, "1 start_height start_width channels"] | None,
) -> Float[Array, "batch new_height new_width channels"]:
    """The images that a stage of this size starts from, after a stage that ended with `shown`.

    Enlarged images have lost their details: those of the image that the first stage started from are added again.
    """
    images = resize(shown.astype(jnp.float32), size)
    before = (shown.shape[1], shown.shape[2])
    if start is None or before == size:
        return images
    lost = resize(start, size) - resize(resize(start, before), size)
    return jnp.clip(images + lost, 0, 255)
