"""Images in rows and columns: augmented samples, feature maps, filters, classes (article, sections 4.3 and 6)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnnjax.figures.canvas import LIMIT, arrow, image, outline, photograph, save, sheet, text
from cnnjax.figures.style import BODY, HEAD, MUTED, RED, SMALL, WIDTH

Pixels = np.ndarray | jax.Array

_GAP = 8


@runtime_checkable
class Maps(Protocol):
    """Some feature maps of one layer, as `visualize.feature_maps` returns them."""

    maps: np.ndarray
    """uint8 (channels, height, width)."""
    channels: Sequence[int]
    """The number of each map's channel."""
    blank: np.ndarray
    """bool (channels,): the map has the same value everywhere, so it shows nothing."""


def image_grid(
    images: Iterable[Pixels],
    titles: Sequence[str],
    path: Path,
    columns: int = 4,
    inactive: Iterable[bool] | None = None,
    width: int = WIDTH,
    heading: str = "",
) -> Path:
    """Draw images in rows and columns, each above its title, all of them below the heading if there is one.

    images: (height, width), (height, width, 1) or (height, width, 3), uint8 or floats in [0, 1].
    inactive: which ones are replaced by hatching. width: of the figure, in CSS pixels.
    """
    images = [np.asarray(pixels) for pixels in images]
    inactive = [False] * len(images) if inactive is None else list(inactive)
    side = (width - _GAP * (columns - 1)) / columns
    caption = 20 if any(titles) else 0
    rows = math.ceil(len(images) / columns)
    head = 28 if heading else 0
    figure, board = sheet(width, round(head + rows * (side + caption + _GAP) - _GAP))
    if heading:
        text(board, 6, 14, heading, BODY, ha="left", weight="bold")
    for index, (pixels, title, blank) in enumerate(zip(images, titles, inactive, strict=True)):
        x = (index % columns) * (side + _GAP)
        y = head + (index // columns) * (side + caption + _GAP)
        if blank:
            _hatched(board, x, y, side, "inactive")
        else:
            photograph(figure, pixels, x, y, side)
        if title:
            text(board, x + side / 2, y + side + 11, title, SMALL, MUTED)
    return save(figure, path)


def feature_map_grid(maps: Mapping[str, Maps], path: Path, limit: int | None = LIMIT) -> Path:
    """Draw the feature maps of each layer in a row: bright where the filter found its pattern, hatched if blank.

    limit: bytes of the file, see `save`.
    """
    most = max(len(layer.channels) for layer in maps.values())
    head = 26
    side = min((WIDTH - _GAP * (most - 1)) / most, 380)
    width = most * (side + _GAP) - _GAP
    figure, board = sheet(round(width), round(len(maps) * (side + head + _GAP)))
    for row, (name, layer) in enumerate(maps.items()):
        top = row * (side + head + _GAP)
        text(board, 0, top + 12, name, BODY, ha="left", weight="bold")
        plural = "s" if len(layer.channels) > 1 else ""
        title = f"{_size(layer.maps[0])}, channel{plural} {', '.join(map(str, layer.channels))}"
        text(board, width, top + 12, title, SMALL, MUTED, ha="right")
        for index in range(len(layer.channels)):
            _map(figure, board, layer, index, index * (side + _GAP), top + head, side)
    return save(figure, path, limit)


def maps_in_a_row(maps: Mapping[str, Maps], path: Path, photo: Pixels | None = None) -> Path:
    """Draw the first map of each layer side by side, after the photograph: how the layers transform the image."""
    first = 0 if photo is None else 1
    side = (WIDTH - _GAP * (len(maps) + first - 1)) / (len(maps) + first)
    figure, board = sheet(WIDTH, round(side + 44))
    if photo is not None:
        photo = np.asarray(photo)
        photograph(figure, photo, 0, 0, side)
        text(board, side / 2, side + 13, "input", SMALL)
        text(board, side / 2, side + 31, _size(photo), 7.5, MUTED)
    for index, (name, layer) in enumerate(maps.items(), first):
        x = index * (side + _GAP)
        _map(figure, board, layer, 0, x, 0, side)
        text(board, x + side / 2, side + 13, name, SMALL)
        text(board, x + side / 2, side + 31, f"{_size(layer.maps[0])}, channel {layer.channels[0]}", 7.5, MUTED)
    return save(figure, path)


def augmented_samples(original: Pixels, samples: Iterable[Pixels], path: Path, columns: int = 4) -> Path:
    """Draw a training image and what augmentation makes of it."""
    samples = [np.asarray(sample) for sample in samples]
    first = 190
    left = first + 56
    side = (WIDTH - left - _GAP * (columns - 1)) / columns
    rows = math.ceil(len(samples) / columns)
    height = rows * (side + _GAP) + 28
    figure, board = sheet(WIDTH, round(max(height, first + 36)))
    middle = 28 + (rows * (side + _GAP) - _GAP) / 2
    top = max(middle - first / 2, 28)
    text(board, 0, 12, "original", HEAD, ha="left", weight="bold")
    text(board, left, 12, f"{len(samples)} augmented samples", HEAD, ha="left", weight="bold")
    photograph(figure, np.asarray(original), 0, top, first)
    outline(board, 0, top, first, first, MUTED, linewidth=0.8)
    arrow(board, (first + 14, top + first / 2), (left - 14, top + first / 2))
    for index, sample in enumerate(samples):
        x, y = left + (index % columns) * (side + _GAP), 28 + (index // columns) * (side + _GAP)
        photograph(figure, sample, x, y, side)
    return save(figure, path)


def _map(figure: Figure, board: Axes, layer: Maps, index: int, x: float, y: float, side: float) -> None:
    if layer.blank[index]:
        _hatched(board, x, y, side, "blank")
    else:
        image(figure, layer.maps[index], x, y, side, cmap="viridis", vmin=0, vmax=255)


def _hatched(board: Axes, x: float, y: float, side: float, label: str) -> None:
    """A hatched square with a label, in place of an image that would show nothing."""
    board.fill_between((x, x + side), y, y + side, facecolor="#eef1f3", hatch="////", edgecolor="#d5dbe0", linewidth=0)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    text(board, x + side / 2, y + side / 2, label, SMALL, RED, bbox=box)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}×{pixels.shape[1]}"
