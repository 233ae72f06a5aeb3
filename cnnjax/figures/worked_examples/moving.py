"""The same examples in motion, as GIFs: one position of the window, or one training step, after another."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cnnjax.article.worked_examples import Convolution, Dropout, Padding, Pooling, Strides
from cnnjax.figures.canvas import arrow, cell, grid, outline, save_film, sheet, text
from cnnjax.figures.style import BLUE, BODY, GOLD, GREEN, HEAD, INK, MUTED, PAPER, RED, SMALL, TINTS, Color
from cnnjax.figures.worked_examples.connections import network
from cnnjax.figures.worked_examples.windows import format_number

_WIDTH = 560  # CSS pixels


def _filled(board: Axes, map_: np.ndarray, step: int, x: float, y: float, side: float) -> None:
    """The map with the values of the first `step` + 1 positions; the last of them is marked."""
    for place, (i, j) in enumerate(np.ndindex(*map_.shape)):
        now = place == min(step, map_.size - 1)
        fill: Color = (TINTS[RED] if now else "#f4f6f8") if place <= step else PAPER
        content = format_number(map_[i, j]) if place <= step else ""
        style = {"weight": "bold", "color": RED} if now else {}
        cell(board, x + j * side, y + i * side, side, content, fill, **style)


def convolution(example: Convolution, path: Path) -> Path:
    """Move the filter over the input: the products in the window, their sum, and the map so far."""
    rows, columns = example.map.shape
    side, top, kernel = 40, 36, example.kernel.shape[0]
    size, right = example.image.shape[0], 400
    frames = []
    for step, (row, column) in enumerate(np.ndindex(rows, columns)):
        figure, board = sheet(_WIDTH, size * side + 72)
        text(board, 20 + size * side / 2, 18, "input × filter", HEAD, MUTED)
        text(board, right + columns * side / 2, 18, "feature map", HEAD, MUTED)
        for i, j in np.ndindex(size, size):
            y, x = i - row, j - column
            inside = 0 <= y < kernel and 0 <= x < kernel
            value = format_number(example.image[i, j])
            content = f"{value}×{format_number(example.kernel[y, x])}" if inside else value
            color = INK if inside and example.products[row, column, y, x] else MUTED
            fill = TINTS[GREEN] if inside else PAPER
            cell(board, 20 + j * side, top + i * side, side, content, fill, size=BODY, color=color)
        outline(board, 20 + column * side, top + row * side, kernel * side, kernel * side, GREEN)
        arrow(board, (20 + size * side + 40, top + size * side / 2), (right - 40, top + size * side / 2))
        _filled(board, example.map, step, right, top + side, side)
        products = " + ".join(format_number(value) for value in example.products[row, column].ravel())
        total = format_number(example.map[row, column])
        text(board, 20, top + size * side + 20, f"{products} = {total}", HEAD, ha="left")
        frames.append(figure)
    return save_film(frames, path, 900)


def strides(example: Strides, path: Path) -> Path:
    """Both strides at once, a position of each in every frame; the larger stride ends earlier."""
    size, kernel, side = example.image.shape[0], example.kernel.shape[0], 22
    frames = []
    for step in range(max(map_.size for map_ in example.maps.values())):
        figure, board = sheet(_WIDTH, size * side + 54)
        for index, (stride, map_) in enumerate(example.maps.items()):
            left, top, rows = index * 292 + 4, 38, map_.shape[0]
            text(board, left, 16, f"stride {stride}:  {rows}×{rows} positions", HEAD, ha="left", weight="bold")
            row, column = np.unravel_index(min(step, map_.size - 1), map_.shape)
            grid(board, size, size, left, top, side)
            x, y = left + int(column) * stride * side, top + int(row) * stride * side
            board.fill_between((x, x + kernel * side), y, y + kernel * side, color=GREEN, alpha=0.16, linewidth=0)
            outline(board, x, y, kernel * side, kernel * side, GREEN)
            down = top + (size - rows) / 2 * 20 + 4
            _filled(board, map_, step, left + size * side + 10, down, 20)
        frames.append(figure)
    return save_film(frames, path, 450)


def padding(example: Padding, path: Path) -> Path:
    """Move the filter over the input with its border of zeros: the map has the size of the input."""
    side, top, right = 30, 38, 330
    size, kernel = example.padded.shape[0], example.kernel.shape[0]
    frames = []
    for step, (row, column) in enumerate(np.ndindex(*example.same.shape)):
        figure, board = sheet(_WIDTH, size * side + 52)
        text(board, 20, 18, "input with a border of zeros", HEAD, MUTED, ha="left")
        text(board, right, 18, f"map: {len(example.same)}×{len(example.same)}", HEAD, MUTED, ha="left")
        for i, j in np.ndindex(size, size):
            border = not (0 < i < size - 1 and 0 < j < size - 1)
            fill, color = ("#e6eaed", "#9aa5af") if border else (TINTS[BLUE], INK)
            content = format_number(example.padded[i, j])
            cell(board, 20 + j * side, top + i * side, side, content, fill, color=color, edge=PAPER)
        outline(board, 20 + column * side, top + row * side, kernel * side, kernel * side, GREEN)
        arrow(board, (20 + size * side + 24, top + size * side / 2), (right - 24, top + size * side / 2))
        _filled(board, example.same, step, right, top + side, side)
        frames.append(figure)
    return save_film(frames, path, 450)


def pooling(example: Pooling, path: Path) -> Path:
    """Move the window over the map: its largest value is kept."""
    side, top, colors = 46, 12, (GREEN, RED, GOLD, BLUE)
    frames = []
    for step, (row, column) in enumerate(np.ndindex(*example.map.shape)):
        figure, board = sheet(_WIDTH, 4 * side + 24)
        for i, j in np.ndindex(*example.image.shape):
            inside = i // 2 == row and j // 2 == column
            largest = inside and example.image[i, j] == example.map[row, column]
            fill = TINTS[colors[step]] if inside else PAPER
            style = {"weight": "bold", "color": colors[step]} if largest else {"color": INK}
            content = format_number(example.image[i, j])
            cell(board, 60 + j * side, top + i * side, side, content, fill, size=13, **style)
        outline(board, 60 + column * 2 * side, top + row * 2 * side, 2 * side, 2 * side, colors[step])
        arrow(board, (60 + 4 * side + 30, top + 2 * side), (60 + 4 * side + 110, top + 2 * side))
        for place, (i, j) in enumerate(np.ndindex(*example.map.shape)):
            fill = TINTS[colors[place]] if place <= step else PAPER
            content = format_number(example.map[i, j]) if place <= step else ""
            style = {"size": 13, "weight": "bold", "color": colors[place]}
            cell(board, 60 + 4 * side + 140 + j * side, top + (1 + i) * side, side, content, fill, **style)
        frames.append(figure)
    return save_film(frames, path, 1000)


def dropout(example: Dropout, path: Path) -> Path:
    """The network at each training step, with other nodes dropped, and at test time."""
    frames = []
    for masks, title in zip(example.masks, example.titles, strict=True):
        figure, board = sheet(320, 276)
        network(board, masks, 0, 320, 136)
        text(board, 160, 12, title, HEAD, weight="bold")
        dropped = sum(int((mask == 0).sum()) for mask in masks)
        text(board, 160, 264, f"{dropped} of {sum(map(len, masks))} nodes dropped", SMALL, MUTED)
        frames.append(figure)
    return save_film(frames, path, 900)
