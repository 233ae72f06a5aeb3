"""What a network predicts: bars of the most probable classes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cnnjax.figures.canvas import photograph, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, INK, MUTED, SMALL, WIDTH

_PALE = "#a9bfd0"
_GAP = 14


def predictions(
    images: Sequence[UInt8[np.ndarray, "height width channels"]],
    titles: Sequence[str],
    classes: Sequence[Sequence[str]],
    probabilities: Sequence[Sequence[float]],
    path: Path,
) -> Path:
    """Draw each image in a row of its own, with its title and a bar for each of its classes beside it.

    The file may take 100 kB for each image.
    """
    bars = max(map(len, classes))
    height = max(120, 22 + 22 * bars)
    figure, board = sheet(WIDTH, len(images) * (height + _GAP) - _GAP)
    left = height + 16
    bar = left + 210
    room = WIDTH - bar - 62
    for row, (pixels, title, names, values) in enumerate(zip(images, titles, classes, probabilities, strict=True)):
        top = row * (height + _GAP)
        photograph(figure, pixels, 0, top, height, interpolation="antialiased")
        text(board, left, top + 10, _shortened(title), SMALL, MUTED, ha="left")
        for rank, (name, probability) in enumerate(zip(names, values, strict=True)):
            y, first = top + 34 + rank * 22, rank == 0
            text(board, bar - 10, y, name, BODY, ha="right", color=INK, weight="bold" if first else "normal")
            length = room * float(probability)
            board.fill_between((bar, bar + max(length, 1)), y - 7, y + 7, color=BLUE if first else _PALE, linewidth=0)
            text(board, bar + length + 8, y, f"{probability:.1%}", SMALL, MUTED, ha="left")
    return save(figure, path, limit=100_000 * len(images))


def _shortened(title: str, length: int = 80) -> str:
    """Cut off the beginning of a long path, since paths differ at their ends."""
    return title if len(title) <= length else f"…{title[1 - length :]}"


def probabilities(names: Sequence[str], values: Iterable[float], path: Path, count: int = 6) -> Path:
    """Draw horizontal bars for the `count` most probable classes, the most probable first."""
    values = np.asarray(list(values), float)
    order = np.argsort(values)[::-1][:count]
    figure, board = sheet(WIDTH, 26 * len(order) + 10)
    for row, index in enumerate(order):
        y, length = 18 + row * 26, 470 * float(values[index])
        text(board, 150, y, names[index], BODY, ha="right")
        board.fill_between((162, 162 + max(length, 1)), y - 8, y + 8, color=BLUE if row == 0 else _PALE, linewidth=0)
        text(board, 172 + length, y, f"{values[index]:.1%}", SMALL, MUTED, ha="left")
    return save(figure, path)
