"""A filter that is learned by gradient descent (article, section 2.7)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.article.worked_examples import Descent
from cnnjax.figures.canvas import image, plot, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, GREEN, INK, MUTED, SMALL, WIDTH


def descent(example: Descent, path: Path, shown: Sequence[int] = (0, 2, 8, 60)) -> Path:
    """Draw the loss while a filter is learned, and the filter after some of the steps."""
    figure, board = sheet(WIDTH, 238)
    axes = plot(figure, 52, 34, 250, 154)
    axes.plot(np.maximum(example.losses, 1e-12), color=BLUE, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=BODY, color=MUTED)
    text(board, 52, 14, "squared error of the map", BODY, ha="left", weight="bold")
    bound = float(np.abs(example.kernels).max())
    steps = [min(step, len(example.losses) - 1) for step in shown]
    side = (WIDTH - 340 - 5) // (len(steps) + 1) - 10
    panels = [(f"step {s}", example.kernels[s]) for s in steps] + [("target", example.target)]
    for index, (title, kernel) in enumerate(panels):
        x = 346 + index * (side + 10)
        text(board, x + side / 2, 76, title, SMALL, GREEN if title == "target" else MUTED)
        shown_axes = image(figure, kernel, x, 90, side, cmap="RdBu_r", vmin=-bound, vmax=bound)
        for i, j in np.ndindex(*kernel.shape):
            color = "white" if abs(kernel[i, j]) > 0.6 * bound else INK
            shown_axes.text(
                j,
                i,
                f"{kernel[i, j] + 0.0:.1f}".replace("-0.0", "0.0"),
                fontsize=7,
                color=color,
                ha="center",
                va="center",
            )
    return save(figure, path)
