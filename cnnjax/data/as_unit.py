"""Images of any usual type as floats in [0, 1], and what is wrong with those that are none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from cnnjax.errors import UserError

TOLERANCE = 0.01
"""How far outside of [0, 1] values may be: interpolation overshoots a little."""


def as_unit(images: Any, channels: int) -> Float[Array, "batch height width {channels}"]:
    """uint8 images divided by 255; floats in [0, 1] as they are. Both (batch, height, width, channels).

    Within a traced function the values cannot be looked at, but types and shapes are.

    Raises UserError, with the remedy, for other types, floats outside of [0, 1], a missing batch axis, another number
    of channels, and channels that come first.
    """
    images = as_array(images, "images are")
    shape = tuple(images.shape)
    if len(shape) != 4:
        alone = "add the batch axis with images[None]"
        if len(shape) == 3 and shape[2] != channels == shape[0]:
            alone = "their channels come first, so use images.transpose(1, 2, 0)[None]"
        remedy = alone if len(shape) == 3 else "give (batch, height, width, channels)"
        raise UserError(f"images have the shape {shape} where (batch, height, width, channels) is required: {remedy}")
    if shape[3] != channels:
        first = shape[1] == channels
        remedy = (
            "their channels come first, so transpose them with images.transpose(0, 2, 3, 1)"
            if first
            else f"give images of {channels} channel{'s' * (channels != 1)}"
        )
        raise UserError(
            f"images have the shape {shape}, but the network's have {channels} channels, the last axis: {remedy}"
        )
    if not shape[0]:
        raise UserError(f"there are no images: the shape is {shape}")
    if images.dtype == np.uint8:
        return jnp.asarray(images).astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images have the type {images.dtype}: give uint8 from 0 to 255, or floats from 0 to 1")
    _check_range(images)
    return jnp.asarray(images)


def one_as_unit(image: Any, channels: int, name: str = "image") -> Float[Array, "height width {channels}"]:
    """`as_unit` of one image (height, width, channels); `name`: of the argument, for the sentence."""
    image = as_array(image, f"{name} is")
    if image.ndim != 3:
        raise UserError(f"{name} has the shape {image.shape} where one image (height, width, channels) is required")
    return as_unit(image[None], channels)[0]


def as_array(images: Any, what: str) -> Any:
    """An array, or what stands for one while a function is traced. `what`: the start of the sentence.

    Raises UserError for what is neither an array nor an image of Pillow, and for a masked array.
    """
    if not hasattr(images, "dtype") and (hasattr(images, "__array__") or hasattr(images, "__array_interface__")):
        images = np.asarray(images)  # an image of Pillow
    if np.ma.isMaskedArray(images):
        raise UserError(f"{what} a masked array: fill it with images.filled(0)")
    if isinstance(images, np.ndarray) and not images.dtype.isnative:  # of a file of another machine
        images = images.astype(images.dtype.newbyteorder("="))
    if not isinstance(images, np.ndarray | jax.Array | jax.core.Tracer | jax.ShapeDtypeStruct):
        raise UserError(f"{what} of the type {type(images).__name__}: give an array of NumPy or JAX")
    return images


def _check_range(images: Shaped[Array | np.ndarray, "..."]) -> None:
    if isinstance(images, jax.core.Tracer) or not images.size or not getattr(images, "is_fully_addressable", True):
        return
    values = np.asarray(images)  # of NumPy, as JAX would trace the comparison within a traced function
    low, high = float(values.min()), float(values.max())
    if np.isnan([low, high]).any() or low < -TOLERANCE or high > 1 + TOLERANCE:
        found = "values that are not numbers" if np.isnan([low, high]).any() else f"values from {low:.4g} to {high:.4g}"
        scaled = low >= -TOLERANCE and 1.5 < high <= 255
        remedy = "divide them by 255, or give them as uint8" if scaled else "undo their normalization"
        raise UserError(f"images have {found}, but floats are read as brightness from 0 to 1: {remedy}")
