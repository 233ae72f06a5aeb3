"""Pictures in rows and columns: augmented samples, feature maps, filters, classes (article, sections 4.3 and 6)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from cnnjax.figures.canvas import (
    BODY,
    HEAD,
    MUTED,
    RED,
    SMALL,
    WIDTH,
    arrow,
    outline,
    picture,
    save,
    sheet,
    text,
)

Pixels = np.ndarray | jax.Array

_GAP = 8
_MAP_STYLE = {"cmap": "viridis"}


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
    figure, board = sheet(width, round(rows * (side + caption + _GAP)))
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


def feature_map_grid(
    maps: Mapping[str, Pixels],
    path: Path,
    dead: Mapping[str, Iterable[bool]] | None = None,
    channels: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """A row for each layer (name -> (h, w, maps)), bright where the filter found its pattern; blank maps are hatched.

    Maps are uint8, or floats that are stretched one by one to the full range. `channels` gives their numbers.
    """
    maps = {name: np.asarray(layer) for name, layer in maps.items()}
    most = max(layer.shape[-1] for layer in maps.values())
    head = 26
    side = min((WIDTH - _GAP * (most - 1)) / most, 380)
    figure, board = sheet(WIDTH, round(len(maps) * (side + head + _GAP)))
    for row, (name, layer) in enumerate(maps.items()):
        top = row * (side + head + _GAP)
        text(board, 0, top + 12, name, BODY, ha="left", weight="bold")
        numbers = (channels or {}).get(name, range(layer.shape[-1]))
        blank = list((dead or {}).get(name, [False] * layer.shape[-1]))
        shown = ", ".join(map(str, numbers))
        size = f"{layer.shape[0]}×{layer.shape[1]}"
        text(
            board,
            WIDTH,
            top + 12,
            f"{size}, channel{'s' if layer.shape[-1] > 1 else ''} {shown}",
            SMALL,
            MUTED,
            ha="right",
        )
        for index in range(layer.shape[-1]):
            x, y = index * (side + _GAP), top + head
            if blank[index]:
                _blank(board, x, y, side, "blank")
                continue
            map_ = layer[..., index]
            low, high = (0, 255) if map_.dtype == np.uint8 else (float(map_.min()), float(map_.max()))
            picture(figure, map_, x, y, side, vmin=low, vmax=high if high > low else low + 1, **_MAP_STYLE)
    return save(figure, path)


def maps_in_a_row(
    maps: Mapping[str, Pixels], path: Path, photo: Pixels | None = None, dead: Mapping[str, bool] | None = None
) -> Path:
    """One map (h, w) of each layer side by side, after the photograph if given: how the picture is transformed."""
    panels = [] if photo is None else [("input", np.asarray(photo))]
    panels += [(name, np.asarray(map_)) for name, map_ in maps.items()]
    side = (WIDTH - _GAP * (len(panels) - 1)) / len(panels)
    figure, board = sheet(WIDTH, round(side + 44))
    for index, (name, image) in enumerate(panels):
        x = index * (side + _GAP)
        if (dead or {}).get(name, False):
            _blank(board, x, 0, side, "blank")
        elif image.ndim == 3:
            _show(figure, image, x, 0, side)
        else:
            picture(figure, image, x, 0, side, **_MAP_STYLE)
        text(board, x + side / 2, side + 13, name, SMALL)
        text(board, x + side / 2, side + 31, f"{image.shape[0]}×{image.shape[1]}", 7.5, MUTED)
    return save(figure, path)


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
