"""Many small pictures in few files: sheets of equal tiles, so that a page of thousands loads some dozens of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cnnjax.files import atomic_write

_EXACT = 24
"""Tiles with a side of up to so many pixels are stored without loss: enlarged, its traces would show."""
_QUALITY = 88
_PIXELS = 1024
"""A sheet's side is about this long."""


class Sheets(NamedTuple):
    """Tiles of one size, row by row: tile number i is number i % (columns · rows) of file number i // (columns · rows).

    files: names relative to the page. tile: (height, width) in pixels. last_rows: of the last file, which may be
    shorter.
    """

    files: list[str]
    tile: tuple[int, int]
    columns: int
    rows: int
    last_rows: int


def write(tiles: Sequence[UInt8[np.ndarray, "height width channels"]], folder: Path, name: str) -> Sheets:
    """Write tiles of one shape to `folder/NAME-0.webp`, `NAME-1.webp`, …, and return where they are."""
    height, width = tiles[0].shape[:2]
    columns = max(1, min(len(tiles), _PIXELS // width))
    # Some hundred tiles at most, so that a look at one costs little.
    rows = max(1, min(-(-len(tiles) // columns), _PIXELS // height, -(-256 // columns)))
    names = []
    for number, first in enumerate(range(0, len(tiles), columns * rows)):
        some = tiles[first : first + columns * rows]
        sheet = np.zeros((-(-len(some) // columns) * height, columns * width, 3), np.uint8)
        for i, tile in enumerate(some):
            row, column = divmod(i, columns)
            sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = rgb(tile)
        names.append(f"{name}-{number}.webp")
        _save(sheet, folder / names[-1], exact=max(height, width) <= _EXACT)
    last = len(tiles) - (len(names) - 1) * columns * rows
    return Sheets([f"{folder.name}/{file}" for file in names], (height, width), columns, rows, -(-last // columns))


def rgb(tile: UInt8[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "height width 3"]:
    """Red, green and blue of an image with any number of channels: its first three, or grey of the first."""
    return tile[..., :3] if tile.shape[2] >= 3 else np.repeat(tile[..., :1], 3, axis=2)


def shrink(tile: UInt8[np.ndarray, "height width channels"], largest: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """An image as RGB, made smaller (antialiased) if a side is longer than `largest`."""
    tile, scale = rgb(tile), largest / max(tile.shape[:2])
    if scale >= 1:
        return tile
    height, width = (max(1, round(side * scale)) for side in tile.shape[:2])
    return np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.LANCZOS))


def _save(sheet: UInt8[np.ndarray, "height width 3"], path: Path, exact: bool) -> None:
    options = {"lossless": True} if exact else {"quality": _QUALITY}
    image = Image.fromarray(sheet)
    atomic_write(path, lambda temporary: image.save(temporary, "webp", **options))
