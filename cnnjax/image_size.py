"""The size of images in pixels, as arguments have it: one number for squares, or (height, width)."""

from collections.abc import Sequence

import numpy as np

from cnnjax.errors import UserError


def to_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """An `image_size` argument, one number for squares or (height, width), as (height, width).

    Raises UserError for sizes below 1, and for what is no whole number.
    """
    size = tuple(image_size) if isinstance(image_size, Sequence | np.ndarray) else (image_size, image_size)
    whole = all(isinstance(pixels, int | np.integer) for pixels in size)
    if len(size) != 2 or not whole or min(size) < 1:
        raise UserError(
            f"image_size={image_size!r} is no image's size: give one positive whole number, or (height, width)"
        )
    return int(size[0]), int(size[1])
