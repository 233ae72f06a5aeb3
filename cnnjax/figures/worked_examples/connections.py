"""Units and the connections between them: dropout (article, section 4.1), receptive fields (section 5)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from cnnjax.article.worked_examples import Dropout, ReceptiveField
from cnnjax.figures.canvas import arrow, cell, outline, save, sheet, text
from cnnjax.figures.style import BLUE, GREEN, HEAD, MUTED, PAPER, RED, RULE, SMALL, TINTS, WIDTH


def dropout(example: Dropout, path: Path) -> Path:
    """Draw the network once for each step; dropped nodes are crossed out and have no connections."""
    panels = len(example.masks)
    panel, height = WIDTH / panels, 280
    figure, board = sheet(WIDTH, height)
    for index, (masks, title) in enumerate(zip(example.masks, example.titles, strict=True)):
        left = index * panel
        nodes = sum(map(len, masks))
        dropped = sum(int((mask == 0).sum()) for mask in masks)
        text(board, left + panel / 2, 14, title, HEAD, weight="bold")
        text(board, left + panel / 2, height - 12, f"{dropped} of {nodes} nodes dropped", SMALL, MUTED)
        network(board, masks, left, panel)
        if index:
            board.plot((left, left), (36, height - 34), color=RULE, linewidth=0.8)
    return save(figure, path)


def network(board: Axes, masks: Sequence[np.ndarray], left: float, width: float, middle: float = 142) -> None:
    """Draw nodes in columns, from `left` on: those whose mask is 0 are crossed out and have no connections."""
    places = [
        [(left + 32 + layer * (width - 64) / (len(masks) - 1), middle + (node - (len(mask) - 1) / 2) * 36)
         for node in range(len(mask))]
        for layer, mask in enumerate(masks)
    ]  # fmt: skip
    edges = [
        (start, end)
        for layer in range(len(masks) - 1)
        for start, a in zip(places[layer], masks[layer], strict=True)
        for end, b in zip(places[layer + 1], masks[layer + 1], strict=True)
        if a != 0 and b != 0
    ]
    board.add_collection(LineCollection(edges, colors=BLUE, linewidths=0.7, alpha=0.55, zorder=1))
    for layer, mask in zip(places, masks, strict=True):
        for (x, y), kept in zip(layer, mask, strict=True):
            if kept:
                board.plot(x, y, "o", markersize=14, markerfacecolor=BLUE, markeredgecolor=PAPER, zorder=2)
            else:
                board.plot(x, y, "o", markersize=13, markerfacecolor=PAPER, markeredgecolor=RULE, zorder=2)
                board.plot(x, y, "x", markersize=7, markeredgewidth=1.8, color=RED, zorder=3)


def receptive_fields(fields: Sequence[ReceptiveField], path: Path) -> Path:
    """For each stack, draw which values of each earlier map reach the center of the last one, by how many paths."""
    side = 18
    size = fields[0].paths[0].shape[0]
    height = size * side + 64
    figure, board = sheet(WIDTH, len(fields) * height)
    columns = max(len(field.paths) for field in fields)
    gap = (WIDTH - 8 - columns * size * side) / max(columns - 1, 1)
    for row, field in enumerate(fields):
        top = row * height + 32
        for column, paths in enumerate(field.paths):
            left = 4 + column * (size * side + gap)
            seen = paths != 0
            wide = int(seen.any(axis=0).sum())
            title = "input" if column == 0 else f"after {column} convolution{'s' if column > 1 else ''}"
            text(board, left, top - 14, title, SMALL, MUTED, ha="left")
            for i, j in np.ndindex(size, size):
                value = float(paths[i, j] / paths.max())
                fill = PAPER if not seen[i, j] else _blend(GREEN if column == 0 else BLUE, 0.22 + 0.78 * value)
                cell(board, left + j * side, top + i * side, side, fill=fill)
            corner = (size - wide) // 2 * side
            outline(board, left + corner, top + corner, wide * side, wide * side, GREEN if column == 0 else BLUE)
            text(board, left + size * side, top - 14, f"{wide}×{wide}", HEAD, ha="right", weight="bold")
            if column:
                y = top + size * side / 2
                arrow(board, (left - gap + 4, y), (left - 4, y))
        caption = (
            f"{field.depth} stacked 3×3 convolutions have a receptive field of {field.size}×{field.size}, "
            f"with {9 * field.depth} weights per pair of channels instead of {field.size**2}"
        )
        text(board, 4, top + size * side + 15, caption, SMALL, MUTED, ha="left")
    return save(figure, path)


def _blend(color: str, share: float) -> tuple[float, float, float]:
    return tuple(np.asarray(to_rgb(TINTS[color])) * (1 - share) + np.asarray(to_rgb(color)) * share)
