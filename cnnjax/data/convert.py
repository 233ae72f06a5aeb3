"""A user's arrays and arguments, checked and brought to the types that this package works with."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from cnnjax.errors import UserError

_CHECKED = 2**24  # numbers checked at a time, so that no second copy of the data is made


def to_images(images: Any, name: str = "images") -> UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]:
    """Images as uint8 or float32 (n, height, width, channels); grey ones (n, height, width) get one channel.

    No copy is made of arrays that are so already. `name` is for messages. Raises UserError for other shapes and types,
    for channels that come first, and for floating-point values that are not finite or outside [0, 1].
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise UserError(
            f"{name} must have the shape (number, height, width, channels), or (number, height, width) if grey, and "
            f"not {images.shape}"
        )
    if _channels_first(images.shape):
        raise UserError(
            f"{name} of the shape {images.shape} seem to have their channels first: bring them to (number, height, "
            "width, channels), with images.transpose(0, 2, 3, 1) for all of them or image.transpose(1, 2, 0) for one"
        )
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"{name} must be uint8 in [0, 255] or floating point in [0, 1], and not {images.dtype}: convert them"
        )
    step = max(1, _CHECKED // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        some = images[start : start + step]
        low, high = some.min(), some.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(f"{name} contain values that are not finite (NaN or infinity): remove or replace them")
        if low < 0 or high > 1:
            raise UserError(
                f"{name} of floating point must lie in [0, 1], and these reach from {low:.4g} to {high:.4g}: scale "
                "them, or give uint8 in [0, 255]"
            )
    return images.astype(np.float32, copy=False)


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images look like (number, 1 or 3, height, width), and not like narrow ones with many channels."""
    _, channels, height, width = shape
    return channels in (1, 3) and min(height, width) >= 8 and max(height, width) <= 4 * min(height, width)


def to_labels(labels: Any, name: str = "labels") -> Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]:
    """Labels as int32 class indices (n,), or as float32 distributions over the classes (n, classes).

    A column (n, 1) of integers counts as (n,). `name` is for messages. Raises UserError for other shapes and types,
    negative indices, and rows that are not distributions.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    integers = labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.integer)
    if labels.ndim == 1 and integers:
        if labels.size and labels.min() < 0:
            raise UserError(f"{name} contain {labels.min()}: class indices count from 0")
        return labels.astype(np.int32, copy=False)
    if labels.ndim == 1 and (remedy := _label_remedy(labels)):
        raise UserError(f"{name} must be integers, and not {labels.dtype}: {remedy}")
    if labels.ndim != 2 or not (integers or jnp.issubdtype(labels.dtype, jnp.floating)):
        raise UserError(
            f"{name} must be integers (number,) or distributions (number, classes), and not {labels.dtype} of shape "
            f"{labels.shape}"
        )
    labels = labels.astype(np.float32, copy=False)
    wrong = ~((labels >= 0).all(axis=1) & (np.abs(labels.sum(axis=1) - 1) < 1e-3))  # a NaN is wrong, too
    if wrong.any():
        raise UserError(
            f"{name} of shape {labels.shape} must be distributions: no value below 0, and each row sums to 1; row "
            f"{int(np.argmax(wrong))} is not"
        )
    return labels


def _label_remedy(labels: np.ndarray) -> str | None:
    """How labels (n,) of another type become integers, if they can."""
    if labels.dtype.kind in "USOT":
        return "number them with names, labels = np.unique(labels, return_inverse=True), and pass class_names=names"
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return "convert them with labels.astype(int)"
    return None
