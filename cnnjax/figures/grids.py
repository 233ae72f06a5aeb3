"""Pictures in rows and columns: augmented samples, feature maps, filters, classes (article, sections 4.3 and 6)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from cnnjax.figures.canvas import BODY, HEAD, MUTED, RED, SMALL, WIDTH, arrow, outline, picture, save, sheet, text
from cnnjax.visualize.feature_maps import FeatureMaps

Pixels = np.ndarray | jax.Array

_GAP = 8


def _blank(board, x: float, y: float, side: float, words: str) -> None:
    board.fill_between((x, x + side), y, y + side, facecolor="#eef1f3", hatch="////", edgecolor="#d5dbe0", linewidth=0)
    text(
        board,
        x + side / 2,
        y + side / 2,
        words,
        SMALL,
        RED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def picture_grid(
    images: Iterable[Pixels],
    titles: Sequence[str],
    path: Path,
    columns: int = 4,
    dead: Iterable[bool] | None = None,
    width: int = WIDTH,
) -> Path:
    """Pictures (h, w, 3) or (h, w), uint8 or floats in [0, 1], each under its title; dead ones are hatched."""
    images = [np.asarray(image) for image in images]
    dead = [False] * len(images) if dead is None else list(dead)
    side = (width - _GAP * (columns - 1)) / columns
    caption = 20 if any(titles) else 0
    rows = math.ceil(len(images) / columns)
    figure, board = sheet(width, round(rows * (side + caption + _GAP) - _GAP))
    for index, (image, title, blank) in enumerate(zip(images, titles, dead, strict=True)):
        x = (index % columns) * (side + _GAP)
        y = (index // columns) * (side + caption + _GAP)
        if blank:
            _blank(board, x, y, side, "dead")
        else:
            _show(figure, image, x, y, side)
        if title:
            text(board, x + side / 2, y + side + 11, title, SMALL, MUTED)
    return save(figure, path)


def _show(figure, image: np.ndarray, x: float, y: float, side: float) -> None:
    style = {"vmin": 0, "vmax": 255 if image.dtype == np.uint8 else 1}
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        style["cmap"] = "gray"
    elif image.dtype != np.uint8:
        image = np.clip(image, 0, 1)
    picture(figure, image, x, y, side, **style)


def feature_map_grid(maps: Mapping[str, FeatureMaps], path: Path) -> Path:
    """A row for each layer, bright where the filter found its pattern; maps that show nothing are hatched."""
    most = max(len(layer.channels) for layer in maps.values())
    head = 26
    side = min((WIDTH - _GAP * (most - 1)) / most, 380)
    width = most * (side + _GAP) - _GAP
    figure, board = sheet(round(width), round(len(maps) * (side + head + _GAP)))
    for row, (name, layer) in enumerate(maps.items()):
        top = row * (side + head + _GAP)
        text(board, 0, top + 12, name, BODY, ha="left", weight="bold")
        plural = "s" if len(layer.channels) > 1 else ""
        words = f"{_size(layer.maps[0])}, channel{plural} {', '.join(map(str, layer.channels))}"
        text(board, width, top + 12, words, SMALL, MUTED, ha="right")
        for index in range(len(layer.channels)):
            _map(figure, board, layer, index, index * (side + _GAP), top + head, side)
    return save(figure, path)


def maps_in_a_row(maps: Mapping[str, FeatureMaps], path: Path, photo: Pixels | None = None) -> Path:
    """The first map of each layer, side by side after the photograph: how the picture is transformed."""
    first = 0 if photo is None else 1
    side = (WIDTH - _GAP * (len(maps) + first - 1)) / (len(maps) + first)
    figure, board = sheet(WIDTH, round(side + 44))
    if photo is not None:
        photo = np.asarray(photo)
        _show(figure, photo, 0, 0, side)
        text(board, side / 2, side + 13, "input", SMALL)
        text(board, side / 2, side + 31, _size(photo), 7.5, MUTED)
    for index, (name, layer) in enumerate(maps.items(), first):
        x = index * (side + _GAP)
        _map(figure, board, layer, 0, x, 0, side)
        text(board, x + side / 2, side + 13, name, SMALL)
        text(board, x + side / 2, side + 31, f"{_size(layer.maps[0])}, channel {layer.channels[0]}", 7.5, MUTED)
    return save(figure, path)


def _map(figure, board, layer: FeatureMaps, index: int, x: float, y: float, side: float) -> None:
    if layer.dead[index]:
        _blank(board, x, y, side, "blank")
    else:
        picture(figure, layer.maps[index], x, y, side, cmap="viridis", vmin=0, vmax=255)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]}×{image.shape[1]}"


def augmented_samples(original: Pixels, samples: Iterable[Pixels], path: Path, columns: int = 4) -> Path:
    """A training picture and what augmentation makes of it."""
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
    _show(figure, np.asarray(original), 0, top, first)
    outline(board, 0, top, first, first, MUTED, linewidth=0.8)
    arrow(board, (first + 14, top + first / 2), (left - 14, top + first / 2))
    for index, sample in enumerate(samples):
        x, y = left + (index % columns) * (side + _GAP), 28 + (index // columns) * (side + _GAP)
        _show(figure, sample, x, y, side)
    return save(figure, path)
