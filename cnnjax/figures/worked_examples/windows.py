"""Convolution, stride, padding, ReLU and pooling, window by window (article, sections 2.1 to 2.4)."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from cnnjax.article.worked_examples import Convolution, Padding, Pooling, Strides, Volume
from cnnjax.figures.canvas import arrow, cell, image, outline, plot, save, sheet, text
from cnnjax.figures.style import BLUE, BODY, GOLD, GREEN, HEAD, INK, MUTED, PAPER, RED, SMALL, TINTS, WIDTH


def format_number(value: float | np.floating) -> str:
    """A value as it stands in a cell."""
    return f"{value:g}"


def table(board: Axes, values: np.ndarray, x: float, y: float, side: float, **style) -> None:
    """Draw an array of two axes as cells."""
    for row, column in np.ndindex(*values.shape):
        content = format_number(values[row, column])
        cell(board, x + column * side, y + row * side, side, content, **{"size": BODY, **style})


def operands(example: Convolution, path: Path) -> Path:
    """Draw the input, the filter and the feature map that results."""
    figure, board = sheet(WIDTH, 246)
    side, top, left = 38, 40, 70
    text(board, left + 2.5 * side, 20, "input", HEAD, MUTED)
    table(board, example.image, left, top, side, size=HEAD, fill=TINTS[BLUE], edge=PAPER)
    text(board, left + 232, top + 2.5 * side, "∗", 20, MUTED)
    text(board, left + 276 + 1.5 * side, top + side - 20, "filter", HEAD, MUTED)
    table(board, example.kernel, left + 276, top + side, side, size=HEAD, fill=TINTS[GOLD], edge=PAPER)
    text(board, left + 434, top + 2.5 * side, "=", 20, MUTED)
    text(board, left + 480 + 1.5 * side, top + side - 20, "feature map", HEAD, MUTED)
    table(board, example.map, left + 480, top + side, side, size=HEAD, fill=TINTS[RED], edge=PAPER, weight="bold")
    return save(figure, path)


def sliding(example: Convolution, path: Path) -> Path:
    """Draw a panel for each position of the filter: input × filter in the window, and the map computed so far."""
    rows, columns = example.map.shape
    side, panel, height, gap = 27, 232, 176, 30
    figure, board = sheet(WIDTH, rows * height + 4)
    size, kernel = example.image.shape[0], example.kernel.shape[0]
    for row, column in np.ndindex(rows, columns):
        left, top = column * (panel + gap) + 2, row * height + 26
        text(board, left, top - 13, f"window {row * columns + column + 1}", SMALL, MUTED, ha="left")
        for i, j in np.ndindex(size, size):
            value, inside = (
                format_number(example.image[i, j]),
                row <= i < row + kernel and column <= j < column + kernel,
            )
            content = f"{value}×{format_number(example.kernel[i - row, j - column])}" if inside else value
            color = (INK if example.products[row, column, i - row, j - column] else MUTED) if inside else MUTED
            fill = TINTS[GREEN] if inside else PAPER
            cell(board, left + j * side, top + i * side, side, content, fill, size=7.2, color=color)
        outline(board, left + column * side, top + row * side, kernel * side, kernel * side, GREEN)
        right = left + size * side + 16
        for i, j in np.ndindex(rows, columns):
            filled, now = i * columns + j <= row * columns + column, (i, j) == (row, column)
            fill = (TINTS[RED] if now else "#f4f6f8") if filled else PAPER
            content = format_number(example.map[i, j]) if filled else ""
            style = {"weight": "bold", "color": RED} if now else {}
            cell(board, right + j * side, top + (i + 1) * side, side, content, fill, **style)
    return save(figure, path)


def strides(example: Strides, path: Path) -> Path:
    """For each stride, draw the first two windows and all windows' centers on the input, and the map."""
    size, kernel, side = example.image.shape[0], example.kernel.shape[0], 26
    figure, board = sheet(WIDTH, size * side + 62)
    for index, (stride, map_) in enumerate(example.maps.items()):
        left, top, rows = index * 392 + 4, 46, map_.shape[0]
        title = f"stride {stride}:  {size}×{size}  →  {rows}×{rows}"
        text(board, left, 16, title, HEAD, ha="left", weight="bold")
        for i, j in np.ndindex(size, size):
            cell(board, left + j * side, top + i * side, side)
        for i, j in np.ndindex(*map_.shape):
            x, y = left + (j * stride + kernel / 2) * side, top + (i * stride + kernel / 2) * side
            board.plot(x, y, "o", markersize=4.2, color=MUTED)
        for number, color in enumerate((GREEN, RED)):
            x, y = left + number * stride * side, top
            board.fill_between((x, x + kernel * side), y, y + kernel * side, color=color, alpha=0.13, linewidth=0)
            outline(board, x + number, y, kernel * side, kernel * side, color)
            board.plot(x + kernel / 2 * side, y + kernel / 2 * side, "o", markersize=6, color=color)
        small = 26
        right, down = left + size * side + 34, top + (size * side - rows * small) / 2
        arrow(board, (right - 27, top + size * side / 2), (right - 7, top + size * side / 2))
        for i, j in np.ndindex(*map_.shape):
            color = {(0, 0): GREEN, (0, 1): RED}.get((i, j))
            fill, ink = (TINTS[color], color) if color else (PAPER, INK)
            cell(board, right + j * small, down + i * small, small, format_number(map_[i, j]), fill, color=ink)
    return save(figure, path)


def padding(example: Padding, path: Path) -> Path:
    """Draw the input with a border of zeros, and the maps with and without that border."""
    side, top = 32, 42
    size, inner = example.padded.shape[0], example.image.shape[0]
    figure, board = sheet(WIDTH, size * side + 56)
    text(board, 4, 16, f"{inner}×{inner} input with padding", HEAD, ha="left", weight="bold")
    for i, j in np.ndindex(size, size):
        border = not (0 < i < size - 1 and 0 < j < size - 1)
        fill, color = ("#e6eaed", "#9aa5af") if border else (TINTS[BLUE], INK)
        cell(
            board,
            4 + j * side,
            top + i * side,
            side,
            format_number(example.padded[i, j]),
            fill,
            color=color,
            edge=PAPER,
        )
    outline(board, 4, top, 3 * side, 3 * side, GREEN)
    for left, map_, title, first in (
        (312, example.same, "map with padding", GREEN),
        (580, example.valid, "map without", RED),
    ):
        rows = map_.shape[0]
        text(board, left, 16, f"{title}: {rows}×{rows}", HEAD, ha="left", weight="bold")
        y = top + (size - rows) / 2 * side
        table(board, map_, left, y, side, fill="#f4f6f8", edge=PAPER)
        cell(board, left, y, side, format_number(map_[0, 0]), TINTS[first], color=first, weight="bold", edge=PAPER)
    arrow(board, (4 + size * side + 16, top + size * side / 2), (292, top + size * side / 2))
    return save(figure, path)


def pooling(example: Pooling, path: Path) -> Path:
    """Draw each window in a color of its own, with its largest value in bold."""
    colors, side = (GREEN, RED, GOLD, BLUE), 50
    figure, board = sheet(WIDTH, 4 * side + 16)
    for i, j in np.ndindex(*example.image.shape):
        color = colors[(i // 2) * 2 + j // 2]
        largest = example.image[i, j] == example.map[i // 2, j // 2]
        style = {"weight": "bold", "color": color} if largest else {"color": INK}
        cell(
            board, 90 + j * side, 8 + i * side, side, format_number(example.image[i, j]), TINTS[color],
            edge=PAPER, size=13, **style,
        )  # fmt: skip
    middle = 8 + 2 * side
    arrow(board, (90 + 4 * side + 30, middle), (90 + 4 * side + 190, middle))
    text(board, 90 + 4 * side + 110, middle - 14, "max pooling", BODY, MUTED)
    text(board, 90 + 4 * side + 110, middle + 15, "window 2×2, stride 2", BODY, MUTED)
    for i, j in np.ndindex(*example.map.shape):
        color = colors[i * 2 + j]
        cell(
            board, 520 + j * side, middle - side + i * side, side, format_number(example.map[i, j]), TINTS[color],
            edge=PAPER, size=13, weight="bold", color=color,
        )  # fmt: skip
    return save(figure, path)


def relu(example: Volume, path: Path, channel: int = 1) -> Path:
    """Draw one feature map before and after ReLU, and a graph of that function."""
    side = 200
    figure, board = sheet(WIDTH, side + 62)
    before, after = example.maps[..., channel], example.rectified[..., channel]
    # Padding causes strong edges at the border; the colors are chosen for the values inside.
    bound = float(np.percentile(np.abs(before), 97))
    span = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
    text(board, 4, 16, "sums", HEAD, ha="left", weight="bold")
    text(board, 4 + side, 16, f"{before.min():.2f} to {before.max():.2f}", SMALL, MUTED, ha="right")
    image(figure, before, 4, 34, side, **span)
    text(board, 4 + side / 2, side + 48, "blue: negative, red: positive", SMALL, MUTED)
    axes = plot(figure, 290, 52, 190, side - 38)
    line = np.linspace(float(before.min()), float(before.max()), 101)
    axes.plot(line, np.maximum(line, 0), color=RED, linewidth=2)
    axes.set_xlabel("sum", fontsize=SMALL, color=MUTED, labelpad=2)
    axes.set_title("ReLU(sum) = max(0, sum)", fontsize=BODY, color=INK)
    text(board, 556, 16, "after ReLU", HEAD, ha="left", weight="bold")
    text(board, 556 + side, 16, f"{(after == 0).mean():.0%} zero", SMALL, MUTED, ha="right")
    image(figure, after, 556, 34, side, **span)
    arrow(board, (216, 34 + side / 2), (244, 34 + side / 2))
    arrow(board, (508, 34 + side / 2), (536, 34 + side / 2))
    return save(figure, path)
