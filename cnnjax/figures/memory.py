"""What a training step's memory holds, in each combination of what saves some."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax.figures.canvas import BLUE, BODY, HEAD, INK, MUTED, RULE, SMALL, WIDTH, plot, save, sheet, text


def memory(title: str, rows: Sequence[Any], path: Path) -> Path:
    """Bars of GiB (MiB where it is little): what lies there between steps, then what is alive only within one.

    rows: precision, microbatches, remat, peak and temporary (bytes), flops (over those of the first row).
    """
    left, right, top, bar = 250, 120, 62, 24
    figure, board = sheet(WIDTH, top + bar * len(rows) + 14)
    highest = max(row.peak for row in rows)
    unit, scale = ("GiB", 2**30) if highest >= 2**30 else ("MiB", 2**20)
    text(board, 10, 16, title, HEAD, INK, ha="left", weight="bold")
    for x, color, words in ((left, RULE, "parameters, optimizer, pictures"), (left + 230, BLUE, "within a step")):
        board.plot((x, x + 14), (42, 42), color=color, linewidth=8, solid_capstyle="butt")
        text(board, x + 22, 42, words, SMALL, MUTED, ha="left")
    axes = plot(figure, left, top, WIDTH - left - right, bar * len(rows))
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.tick_params(labelbottom=False, length=0)
    axes.set_xlim(0, highest / scale)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for place, row in enumerate(rows):
        rest = (row.peak - row.temporary) / scale
        axes.barh(place, rest, height=0.68, color=RULE)
        axes.barh(place, row.temporary / scale, left=rest, height=0.68, color=BLUE)
        y = top + bar * (place + 0.5)
        parts = f", {row.microbatches} microbatches" if row.microbatches > 1 else ""
        text(board, left - 8, y, f"{row.precision}{parts}{', remat' if row.remat else ''}", BODY, INK, ha="right")
        text(board, WIDTH - right + 8, y, f"{row.peak / scale:.2f} {unit}", BODY, INK, ha="left")
        text(board, WIDTH - 10, y, f"{row.peak / rows[0].peak:.0%}", BODY, MUTED, ha="right")
    return save(figure, path)
