"""What a network says to pictures: each beside bars of its likeliest classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.figures.canvas import BLUE, BODY, INK, MUTED, SMALL, WIDTH, picture, save, sheet, text

_PALE = "#a9bfd0"
_GAP = 14


def answers(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    classes: Sequence[Sequence[str]],
    probabilities: Sequence[Sequence[float]],
    path: Path,
) -> Path:
    """Pictures (side, side, 3) uint8 in rows; at the right of each its title, and a bar for each of its classes."""
    bars = max(map(len, classes))
    height = max(120, 22 + 22 * bars)
    figure, board = sheet(WIDTH, len(pictures) * (height + _GAP) - _GAP)
    left = height + 16
    bar = left + 210
    room = WIDTH - bar - 62
    for row, (shown, title, names, chances) in enumerate(zip(pictures, titles, classes, probabilities, strict=True)):
        top = row * (height + _GAP)
        picture(figure, shown, 0, top, height, interpolation="antialiased")
        text(board, left, top + 10, _shortened(title), SMALL, MUTED, ha="left")
        for rank, (name, chance) in enumerate(zip(names, chances, strict=True)):
            y, first = top + 34 + rank * 22, rank == 0
            text(board, bar - 10, y, name, BODY, ha="right", color=INK, weight="bold" if first else "normal")
            length = room * float(chance)
            board.fill_between((bar, bar + max(length, 1)), y - 7, y + 7, color=BLUE if first else _PALE, linewidth=0)
            text(board, bar + length + 8, y, f"{chance:.1%}", SMALL, MUTED, ha="left")
    return save(figure, path, limit=100_000 * len(pictures))  # photographs, and not for the article's page


def _shortened(title: str, most: int = 80) -> str:
    """The end of a long path, where pictures differ."""
    return title if len(title) <= most else f"…{title[1 - most :]}"
