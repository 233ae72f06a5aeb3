"""Stacks of feature maps as cuboids, and the maps themselves (article, sections 2.1, 2.4 and 2.6)."""

import math
from pathlib import Path

import numpy as np

from cnnjax.article.worked_examples import Volume
from cnnjax.figures.canvas import arrow, box, cell, image, outline, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, GOLD, GREEN, HEAD, MUTED, PAPER, RED, SMALL, WIDTH


def _size(array: np.ndarray) -> str:
    return "×".join(str(n) for n in array.shape)


def volume(example: Volume, path: Path) -> Path:
    """Draw an image, one filter at one position, the map that it computes, and the stack of all maps."""
    figure, board = sheet(WIDTH, 250)
    count, top = example.maps.shape[-1], 66
    kernel = example.kernels[..., 0]
    box(board, 44, top, (24, 130, 130), GOLD)
    box(board, 78, top + 26, (24, 22, 22), GREEN)
    text(board, 96, 228, f"input {_size(example.image)}", BODY)
    text(board, 134, top + 34, f"filter {_size(kernel)}", SMALL, GREEN, ha="left")
    arrow(board, (206, top + 72), (272, top + 72))
    box(board, 300, top, (7, 130, 130), RED)
    text(board, 332, 228, f"one filter: {example.maps.shape[0]}×{example.maps.shape[1]}×1", BODY)
    arrow(board, (384, top + 72), (460, top + 72))
    for index in range(count):
        box(board, 500 + index * 14, top, (12, 130, 130), RED if index == 0 else BLUE)
    text(board, 596, 228, f"{count} filters: {_size(example.maps)}", BODY)
    return save(figure, path)


def maps(example: Volume, path: Path) -> Path:
    """Draw the image and the maps that the ten filters compute from it, each below its filter."""
    count, side, left = example.maps.shape[-1], 106, 166
    figure, board = sheet(WIDTH, 2 * (side + 74) - 12)
    text(board, 4, 14, f"input {_size(example.image)}", BODY, ha="left", weight="bold")
    image(figure, example.image, 4, 28, 150)
    columns = math.ceil(count / 2)
    gap = (WIDTH - left - columns * side) / columns
    for index in range(count):
        x = left + (index % columns) * (side + gap) + gap
        y = (index // columns) * (side + 74) + 4
        kernel = example.kernels[..., index]
        shown = 0.5 + kernel / (2 * np.abs(kernel).max())
        image(figure, shown, x, y, 44)
        text(board, x + 50, y + 22, example.names[index].split(" ", 1), 7.2, MUTED, ha="left")
        map_ = example.maps[..., index]
        # Padding causes strong edges at the border; the gray levels are chosen for the values inside.
        low, high = np.percentile(map_[2:-2, 2:-2], (1, 99))
        image(figure, map_, x, y + 50, side, cmap="gray", vmin=low, vmax=high)
    return save(figure, path)


def two_maps(example: Volume, path: Path, channels: tuple[int, int] = (1, 2)) -> Path:
    """Draw two filters, the map of each, and the volume that the two maps form."""
    side = 120
    figure, board = sheet(WIDTH, 2 * side + 44)
    text(board, 4, 44, f"input {_size(example.image)}", BODY, ha="left", weight="bold")
    image(figure, example.image, 4, 60, 160)
    bound = float(np.percentile(np.abs(example.maps[2:-2, 2:-2, channels]), 99))
    for row, (channel, color) in enumerate(zip(channels, (RED, BLUE), strict=True)):
        top = 4 + row * (side + 36)
        middle = top + side / 2
        kernel = example.kernels[..., channel]
        arrow(board, (172, 140), (218, middle), color)
        image(figure, 0.5 + kernel / (2 * np.abs(kernel).max()), 226, middle - 28, 56)
        outline(board, 226, middle - 28, 56, 56, color)
        text(board, 254, middle + 42, example.names[channel], SMALL, MUTED)
        arrow(board, (292, middle), (336, middle), color)
        image(figure, example.maps[..., channel], 346, top, side, cmap="gray", vmin=-bound, vmax=bound)
        outline(board, 346, top, side, side, color)
        arrow(board, (476, middle), (546, 140), color)
    for row, color in enumerate((RED, BLUE)):
        box(board, 566 + row * 16, 96, (14, 110, 110), color)
    shape = (*example.maps.shape[:2], len(channels))
    text(board, 620, 232, "×".join(map(str, shape)), BODY, weight="bold")
    return save(figure, path)


def pooled(example: Volume, path: Path, channel: int = 1) -> Path:
    """Draw the volume before and after pooling, and one of its maps."""
    figure, board = sheet(WIDTH, 232)
    before, after = example.rectified, example.pooled
    box(board, 20, 62, (90, 128, 128), BLUE)
    text(board, 96, 216, _size(before), BODY, weight="bold")
    arrow(board, (192, 108), (232, 108))
    box(board, 256, 88, (90, 64, 64), RED)
    text(board, 314, 216, _size(after), BODY, weight="bold")
    span = {"cmap": "gray", "vmin": 0, "vmax": float(np.percentile(before[..., channel], 97))}
    image(figure, before[..., channel], 430, 28, 176, **span)
    image(figure, after[..., channel], 654, 72, 88, **span)
    arrow(board, (614, 116), (646, 116))
    text(board, 518, 216, f"one map, {before.shape[0]}×{before.shape[1]}", BODY)
    text(board, 698, 216, f"{after.shape[0]}×{after.shape[1]}", BODY)
    return save(figure, path)


def flattened(example: Volume, path: Path, units: int = 512) -> Path:
    """Draw the pooled volume, the same numbers in a row, and a fully connected layer on them."""
    figure, board = sheet(WIDTH, 190)
    box(board, 20, 70, (100, 70, 70), RED)
    text(board, 88, 168, _size(example.pooled), BODY, weight="bold")
    arrow(board, (176, 92), (214, 92))
    values = example.pooled.reshape(-1)
    shown, side = 12, 22
    for index, value in enumerate(values[:shown]):
        cell(board, 228 + index * side, 80, side, f"{value:.1f}", "#efe8f2", size=6.8, edge=PAPER)
    text(board, 228 + shown * side + 14, 91, "…", HEAD, MUTED)
    text(board, 228 + shown * side / 2, 168, f"flattened: {values.size:,} numbers", BODY, weight="bold")
    nodes = 7
    for index in range(nodes):
        y = 32 + index * 19
        for start in range(shown):
            ends = (239 + start * side, 590), (80 if y < 90 else 102, y)
            board.plot(*ends, color=GREEN, linewidth=0.3, alpha=0.45, zorder=0)
        board.plot(590, y, "o", markersize=9, color=GREEN)
    text(board, 590, 168, f"{units} units", BODY, weight="bold")
    label = (f"({values.size:,} + 1) × {units}", f"= {(values.size + 1) * units:,}", "parameters")
    text(board, 612, 91, label, SMALL, MUTED, ha="left")
    return save(figure, path)
