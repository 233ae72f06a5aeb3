"""Convolution, stride, padding, relu and pooling, window by window (article, sections 2.1 to 2.4)."""

from pathlib import Path

import numpy as np

from cnnjax.article.worked_examples import Convolution, Padding, Pooling, Strides, Volume
from cnnjax.figures.canvas import (
    BLUE,
    BODY,
    GOLD,
    GREEN,
    HEAD,
    INK,
    MUTED,
    PAPER,
    RED,
    SMALL,
    TINTS,
    WIDTH,
    arrow,
    cell,
    outline,
    picture,
    plot,
    save,
    sheet,
    text,
)


def _number(value: float | np.floating) -> str:
    return f"{value:g}"


def _table(board, values: np.ndarray, x: float, y: float, side: float, **style) -> None:
    for row, column in np.ndindex(*values.shape):
        words = _number(values[row, column])
        cell(board, x + column * side, y + row * side, side, words, **{"size": BODY, **style})


def operands(lesson: Convolution, path: Path) -> Path:
    """The picture, the filter and the feature map that they give."""
    figure, board = sheet(WIDTH, 246)
    side, top, left = 38, 40, 70
    text(board, left + 2.5 * side, 20, "input", HEAD, MUTED)
    _table(board, lesson.picture, left, top, side, size=HEAD, fill=TINTS[BLUE], edge=PAPER)
    text(board, left + 232, top + 2.5 * side, "∗", 20, MUTED)
    text(board, left + 276 + 1.5 * side, top + side - 20, "filter", HEAD, MUTED)
    _table(board, lesson.kernel, left + 276, top + side, side, size=HEAD, fill=TINTS[GOLD], edge=PAPER)
    text(board, left + 434, top + 2.5 * side, "=", 20, MUTED)
    text(board, left + 480 + 1.5 * side, top + side - 20, "feature map", HEAD, MUTED)
    _table(board, lesson.map, left + 480, top + side, side, size=HEAD, fill=TINTS[RED], edge=PAPER, weight="bold")
    return save(figure, path)


def sliding(lesson: Convolution, path: Path) -> Path:
    """Every position of the filter: picture × filter in the window, and the map as far as it is filled."""
    rows, columns = lesson.map.shape
    side, panel, height, gap = 27, 232, 176, 30
    figure, board = sheet(WIDTH, rows * height + 4)
    size, kernel = lesson.picture.shape[0], lesson.kernel.shape[0]
    for row, column in np.ndindex(rows, columns):
        left, top = column * (panel + gap) + 2, row * height + 26
        text(board, left, top - 13, f"window {row * columns + column + 1}", SMALL, MUTED, ha="left")
        for i, j in np.ndindex(size, size):
            value, inside = _number(lesson.picture[i, j]), row <= i < row + kernel and column <= j < column + kernel
            words = f"{value}×{_number(lesson.kernel[i - row, j - column])}" if inside else value
            color = (INK if lesson.products[row, column, i - row, j - column] else MUTED) if inside else MUTED
            fill = TINTS[GREEN] if inside else PAPER
            cell(board, left + j * side, top + i * side, side, words, fill, size=7.2, color=color)
        outline(board, left + column * side, top + row * side, kernel * side, kernel * side, GREEN)
        right = left + size * side + 16
        for i, j in np.ndindex(rows, columns):
            filled, now = i * columns + j <= row * columns + column, (i, j) == (row, column)
            fill = (TINTS[RED] if now else "#f4f6f8") if filled else PAPER
            words = _number(lesson.map[i, j]) if filled else ""
            style = {"weight": "bold", "color": RED} if now else {}
            cell(board, right + j * side, top + (i + 1) * side, side, words, fill, **style)
    return save(figure, path)


def strides(lesson: Strides, path: Path) -> Path:
    """The first two windows and every window's centre on the picture, and the map, for each stride."""
    size, kernel, side = lesson.picture.shape[0], lesson.kernel.shape[0], 26
    figure, board = sheet(WIDTH, size * side + 62)
    for index, (stride, map_) in enumerate(lesson.maps.items()):
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
            cell(board, right + j * small, down + i * small, small, _number(map_[i, j]), fill, color=ink)
    return save(figure, path)


def padding(lesson: Padding, path: Path) -> Path:
    """A ring of zeros, and the maps with it and without."""
    side, top = 32, 42
    size, inner = lesson.padded.shape[0], lesson.picture.shape[0]
    figure, board = sheet(WIDTH, size * side + 56)
    text(board, 4, 16, f"{inner}×{inner} input with padding", HEAD, ha="left", weight="bold")
    for i, j in np.ndindex(size, size):
        ring = not (0 < i < size - 1 and 0 < j < size - 1)
        fill, color = ("#e6eaed", "#9aa5af") if ring else (TINTS[BLUE], INK)
        cell(board, 4 + j * side, top + i * side, side, _number(lesson.padded[i, j]), fill, color=color, edge=PAPER)
    outline(board, 4, top, 3 * side, 3 * side, GREEN)
    for left, map_, words, first in (
        (312, lesson.same, "map with padding", GREEN),
        (580, lesson.valid, "map without", RED),
    ):
        rows = map_.shape[0]
        text(board, left, 16, f"{words}: {rows}×{rows}", HEAD, ha="left", weight="bold")
        y = top + (size - rows) / 2 * side
        _table(board, map_, left, y, side, fill="#f4f6f8", edge=PAPER)
        cell(board, left, y, side, _number(map_[0, 0]), TINTS[first], color=first, weight="bold", edge=PAPER)
    arrow(board, (4 + size * side + 16, top + size * side / 2), (292, top + size * side / 2))
    return save(figure, path)


def pooling(lesson: Pooling, path: Path) -> Path:
    """A colour for each window; its greatest value is set in bold."""
    colors, side = (GREEN, RED, GOLD, BLUE), 50
    figure, board = sheet(WIDTH, 4 * side + 16)
    for i, j in np.ndindex(*lesson.picture.shape):
        color = colors[(i // 2) * 2 + j // 2]
        greatest = lesson.picture[i, j] == lesson.map[i // 2, j // 2]
        style = {"weight": "bold", "color": color} if greatest else {"color": INK}
        cell(
            board, 90 + j * side, 8 + i * side, side, _number(lesson.picture[i, j]), TINTS[color],
            edge=PAPER, size=13, **style,
        )  # fmt: skip
    middle = 8 + 2 * side
    arrow(board, (90 + 4 * side + 30, middle), (90 + 4 * side + 190, middle))
    text(board, 90 + 4 * side + 110, middle - 14, "max pooling", BODY, MUTED)
    text(board, 90 + 4 * side + 110, middle + 15, "window 2×2, stride 2", BODY, MUTED)
    for i, j in np.ndindex(*lesson.map.shape):
        color = colors[i * 2 + j]
        cell(
            board, 520 + j * side, middle - side + i * side, side, _number(lesson.map[i, j]), TINTS[color],
            edge=PAPER, size=13, weight="bold", color=color,
        )  # fmt: skip
    return save(figure, path)


def relu(lesson: Volume, path: Path, channel: int = 1) -> Path:
    """One feature map before and after relu, and the function between them."""
    side = 200
    figure, board = sheet(WIDTH, side + 62)
    before, after = lesson.maps[..., channel], lesson.rectified[..., channel]
    # The padding makes strong edges at the border; colours are for what is inside.
    bound = float(np.percentile(np.abs(before), 97))
    span = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
    text(board, 4, 16, "sums", HEAD, ha="left", weight="bold")
    text(board, 4 + side, 16, f"{before.min():.2f} to {before.max():.2f}", SMALL, MUTED, ha="right")
    picture(figure, before, 4, 34, side, **span)
    text(board, 4 + side / 2, side + 48, "blue: negative, red: positive", SMALL, MUTED)
    axes = plot(figure, 290, 52, 190, side - 38)
    line = np.linspace(float(before.min()), float(before.max()), 101)
    axes.plot(line, np.maximum(line, 0), color=RED, linewidth=2)
    axes.set_xlabel("sum", fontsize=SMALL, color=MUTED, labelpad=2)
    axes.set_title("relu(sum) = max(0, sum)", fontsize=BODY, color=INK)
    text(board, 556, 16, "after relu", HEAD, ha="left", weight="bold")
    text(board, 556 + side, 16, f"{(after == 0).mean():.0%} zero", SMALL, MUTED, ha="right")
    picture(figure, after, 556, 34, side, **span)
    arrow(board, (216, 34 + side / 2), (244, 34 + side / 2))
    arrow(board, (508, 34 + side / 2), (536, 34 + side / 2))
    return save(figure, path)
