"""Heat maps over the images that they belong to."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np

from cnnjax.figures.canvas import photograph, save, sheet, text
from cnnjax.figures.style import MUTED, SMALL, WIDTH

_GAP = 8
_LEAST_SIDE = 92
"""Of an image on a sheet with many columns."""


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


def attribution_sheet(
    images: Sequence[np.ndarray | jax.Array],
    heat_maps: Mapping[str, Sequence[np.ndarray | jax.Array]],
    titles: Sequence[str],
    path: Path,
    opacity: float = 0.65,
) -> Path:
    """Draw a row for each image: the image, then its heat map by each method over it, under the method's name.

    images: (height, width), (height, width, 1) or (height, width, 3), uint8 or floats in [0, 1]. heat_maps: by the
    method's name (height, width) in [0, 1] of each image, as `visualize.to_display` returns them. titles: one for each
    image, written above its row. With many methods the sheet is wider than other figures; it takes up to 1.5 MB.
    """
    columns = 1 + len(heat_maps)
    side = min(max((WIDTH - _GAP * (columns - 1)) / columns, _LEAST_SIDE), 300)
    head, caption = 34, 24
    width, row = columns * (side + _GAP) - _GAP, caption + side + _GAP
    figure, board = sheet(round(width), round(head + len(images) * row - _GAP))
    for column, name in enumerate(("image", *heat_maps)):
        # Two lines where a name is longer than its column, at its hyphens.
        lines = textwrap.wrap(name.replace("-", "- "), max(8, int(side / 6.5)), break_long_words=False)
        label = [line.replace("- ", "-") for line in lines]
        text(board, column * (side + _GAP) + side / 2, head / 2, label, SMALL, weight="bold", linespacing=1.0)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        top = head + index * row
        text(board, 6, top + caption / 2, title, SMALL, MUTED, ha="left")
        photograph(figure, np.asarray(image), 0, top + caption, side)
        for column, maps in enumerate(heat_maps.values(), 1):
            shown = overlay(image, maps[index], opacity)
            photograph(figure, shown, column * (side + _GAP), top + caption, side)
    return save(figure, path, limit=1_500_000)


def overlay(image: np.ndarray | jax.Array, heat_map: np.ndarray | jax.Array, opacity: float = 0.6) -> np.ndarray:
    """An image in grey, mixed with a heat map in colour: float (height, width, 3) in [0, 1]."""
    image, heat_map = np.asarray(image), np.asarray(heat_map, float)
    grey = image / 255 if image.dtype == np.uint8 else image
    if grey.ndim == 3:
        grey = grey.mean(axis=-1)
    colours = matplotlib.colormaps["inferno"](np.clip(heat_map, 0, 1))[..., :3]
    return (1 - opacity) * grey[..., None] + opacity * colours
