"""Heat maps over the images that they belong to."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np

from cnnjax.figures.canvas import photograph, save, sheet, text
from cnnjax.figures.style import MUTED, SMALL, WIDTH

_GAP = 8


def heat_overlay(
    images: Sequence[np.ndarray | jax.Array],
    heat_maps: Sequence[np.ndarray | jax.Array],
    titles: Sequence[str],
    path: Path,
    columns: int = 4,
    opacity: float = 0.6,
) -> Path:
    """Draw each image, and below it the same image with its heat map over it: dark where the map is 0.

    images: (height, width), (height, width, 1) or (height, width, 3), uint8 or floats in [0, 1]. heat_maps: (height,
    width) in [0, 1], as `visualize.grad_cam` returns them. titles: one for each image, or none. opacity: of the map.
    """
    columns = min(columns, len(images))
    side = min((WIDTH - _GAP * (columns - 1)) / columns, 300)
    caption = 20 if any(titles) else 0
    height = 2 * side + 2 + caption + _GAP
    width = columns * (side + _GAP) - _GAP
    figure, board = sheet(round(width), round(math.ceil(len(images) / columns) * height - _GAP))
    for index, (image, heat) in enumerate(zip(images, heat_maps, strict=True)):
        x, y = (index % columns) * (side + _GAP), (index // columns) * height
        photograph(figure, np.asarray(image), x, y, side)
        photograph(figure, overlay(image, heat, opacity), x, y + side + 2, side)
        if titles:
            text(board, x + side / 2, y + 2 * side + 13, titles[index], SMALL, MUTED)
    return save(figure, path)


def overlay(image: np.ndarray | jax.Array, heat_map: np.ndarray | jax.Array, opacity: float = 0.6) -> np.ndarray:
    """An image in grey, mixed with a heat map in colour: float (height, width, 3) in [0, 1]."""
    image, heat_map = np.asarray(image), np.asarray(heat_map, float)
    grey = image / 255 if image.dtype == np.uint8 else image
    if grey.ndim == 3:
        grey = grey.mean(axis=-1)
    colours = matplotlib.colormaps["inferno"](np.clip(heat_map, 0, 1))[..., :3]
    return (1 - opacity) * grey[..., None] + opacity * colours
