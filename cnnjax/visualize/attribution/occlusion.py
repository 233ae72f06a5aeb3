"""Occlusion (Zeiler & Fergus 2014): how far the class's logit falls when a window of the image is covered."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cnnjax.errors import UserError
from cnnjax.network import Images, Network
from cnnjax.visualize.attribution.accumulate import Rows, accumulate
from cnnjax.visualize.attribution.target import ClassIndex, class_scores, prepare, scores


def occlusion(
    network: Network,
    images: Images,
    class_index: ClassIndex | None = None,
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: float = 0.5,
    batch_size: int = 16,
) -> Float[np.ndarray, "images height width"]:
    """Occlusion (Zeiler & Fergus 2014): the fall of the class's logit when a window around a pixel is covered.

    A pixel's value is the mean over the windows that contain it, negative where covering raises the logit. The class is
    the one of the uncovered image.
    window: height and width of the window in pixels, an int or both; by default an eighth of the image. stride: from
    one window to the next, at most the window; by default half of it. Windows reach over the right and lower edge where
    the strides do not fit, as Captum's do. fill: the value in [0, 1] that covers; the paper's is grey.
    batch_size: covered images that the network is given at a time. See `gradient` for the other arguments.

    Raises UserError for a window or a stride that does not fit, another fill, or an unknown class.
    """
    if not 0 <= fill <= 1:
        raise UserError(f"fill={fill} must be from 0 to 1, as images are")
    network, images, classes = prepare(network, images, class_index, batch_size)
    size = window_size(images.shape[1:3], window)
    rows, columns = window_stride(size, stride)
    tops = np.arange(_shifts(images.shape[1], size[0], rows), dtype=np.int32) * rows
    lefts = np.arange(_shifts(images.shape[2], size[1], columns), dtype=np.int32) * columns
    corners = np.stack([axis.ravel() for axis in np.meshgrid(tops, lefts, indexing="ij")], axis=1)
    falls = accumulate(
        Cover(),
        network,
        images,
        classes,
        extra=scores(network, images, classes, batch_size=batch_size),
        shared=(corners, np.asarray(size, np.int32), np.float32(fill)),
        samples=len(corners),
        batch_size=batch_size,
    )
    inside = [
        ((np.arange(length)[:, None] >= starts) & (np.arange(length)[:, None] < starts + extent)).sum(axis=1)
        for length, starts, extent in zip(images.shape[1:3], (tops, lefts), size, strict=True)
    ]
    return falls / (inside[0][:, None] * inside[1]).astype(np.float32)


@dataclass(frozen=True)
class Cover:
    """The fall of the logit where one window covers the image. extra: the logit of the image itself."""

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        return image[:2]

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows height width"]:
        corners, size, fill = rows.shared
        covered = windows(corners[rows.samples], size, rows.images.shape[1], rows.images.shape[2])
        images = jnp.where(covered[..., None], fill, rows.images)
        fall = rows.extra - class_scores(network(images)[0], rows.classes)
        return jnp.where(covered, fall[:, None, None], 0.0)


def windows(
    corners: Int[Array, "rows 2"], size: Int[Array, " 2"], height: int, width: int
) -> Bool[Array, "rows {height} {width}"]:
    """Masks that are True inside of a window of this size with this upper left corner."""

    def inside(length: int, axis: int) -> Bool[Array, "rows {length}"]:
        places, start = jnp.arange(length)[None], corners[:, axis : axis + 1]
        return (places >= start) & (places < start + size[axis])

    down, across = inside(height, 0), inside(width, 1)
    return down[:, :, None] & across[:, None, :]


def window_size(image: tuple[int, ...], window: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the window. Raises UserError unless it fits into the image."""
    height, width = image
    size = (max(1, height // 8), max(1, width // 8)) if window is None else _pair(window)
    if not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise UserError(f"window={window} does not fit into images of {height}×{width}: give 1 to {min(height, width)}")
    return size


def window_stride(size: tuple[int, int], stride: int | tuple[int, int] | None) -> tuple[int, int]:
    """From one window to the next, down and across. Raises UserError if that leaves gaps."""
    found = (max(1, size[0] // 2), max(1, size[1] // 2)) if stride is None else _pair(stride)
    if not (1 <= found[0] <= size[0] and 1 <= found[1] <= size[1]):
        raise UserError(f"stride={stride} must be 1 up to the window's size, {size[0]}×{size[1]}, to leave no gaps")
    return found


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int | np.integer) else (value[0], value[1])


def _shifts(length: int, window: int, stride: int) -> int:
    return -(-(length - window) // stride) + 1
