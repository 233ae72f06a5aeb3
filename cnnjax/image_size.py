"""The size of images in pixels, as arguments have it: one number for squares, or (height, width)."""

from collections.abc import Sequence

import numpy as np

from cnnjax.errors import UserError


def to_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """An `image_size` argument, one number for squares or (height, width), as (height, width).

    Raises UserError for sizes below 1.
    """
    size = (image_size, image_size) if isinstance(image_size, int | np.integer) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"image_size={image_size} is no image's size: give one positive number, or (height, width)")
    return int(size[0]), int(size[1])
