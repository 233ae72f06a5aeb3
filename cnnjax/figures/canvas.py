"""Sheets to draw on, measured in CSS pixels from the top left, and how they become small PNG files."""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle
from PIL import Image

WIDTH = 760
INK, MUTED, RULE, PAPER = "#22303c", "#6a7783", "#cfd6dc", "#ffffff"
BLUE, RED, GREEN, GOLD, PLUM = "#2f6690", "#c8553d", "#3a8f6b", "#d8a031", "#7d5a8c"
TINTS = {BLUE: "#dbe7f1", RED: "#f8e0d9", GREEN: "#d9eee4", GOLD: "#f8ecd0", PLUM: "#e8deed"}
SMALL, BODY, HEAD = 8.5, 9.5, 11.0  # points; one point is 1.39 CSS pixels

_DPI = 100
_LIMIT = 150_000


def sheet(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty figure and one axes over all of it whose data coordinates are CSS pixels, y downwards."""
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=PAPER)
    board = figure.add_axes((0, 0, 1, 1))
    board.set_xlim(0, width)
    board.set_ylim(height, 0)
    board.set_axis_off()
    return figure, board


def plot(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """An axes with thin left and bottom lines at a place given in CSS pixels."""
    w, h = figure.get_size_inches() * _DPI
    axes = figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=MUTED, labelsize=SMALL, length=3)
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    return axes


def picture(figure: Figure, pixels: np.ndarray, left: float, top: float, side: float, **style) -> Axes:
    """An array (h, w) or (h, w, 3) shown in a square, its own pixels kept."""
    w, h = figure.get_size_inches() * _DPI
    axes = figure.add_axes((left / w, 1 - (top + side) / h, side / w, side / h))
    axes.set_axis_off()
    axes.imshow(pixels, **{"interpolation": "nearest", "aspect": "auto", **style})
    return axes


def text(board: Axes, x: float, y: float, words: str, size: float = BODY, color: str = INK, **style) -> None:
    """Words centred on (x, y) unless told otherwise."""
    board.text(x, y, words, **{"fontsize": size, "color": color, "ha": "center", "va": "center", **style})


def cell(board: Axes, x: float, y: float, side: float, words: str = "", fill: Any = PAPER, **style) -> None:
    """One square of a table."""
    edge = style.pop("edge", RULE)
    board.add_patch(Rectangle((x, y), side, side, facecolor=fill, edgecolor=edge, linewidth=0.8))
    if words:
        text(board, x + side / 2, y + side / 2 + 0.5, words, **style)


def outline(board: Axes, x: float, y: float, width: float, height: float, color: str, **style) -> None:
    """A frame around cells."""
    board.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, **{"linewidth": 2, **style}))


def arrow(board: Axes, start: tuple[float, float], end: tuple[float, float], color: str = MUTED) -> None:
    """A thin arrow."""
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    board.add_patch(FancyArrowPatch(start, end, color=color, **style))


def box(board: Axes, x: float, y: float, size: tuple[float, float, float], color: str, alpha: float = 1.0) -> None:
    """A solid in oblique projection: `size` is (width, height, depth); (x, y) its front face's top left corner.

    The depth recedes to the upper right: the maps' width; the drawn width is the number of channels.
    """
    width, height, depth = size
    dx, dy = depth * 0.42, -depth * 0.30
    shades = _shade(color, 1.0), _shade(color, 1.18), _shade(color, 0.86)
    faces = (
        [(x, y), (x + width, y), (x + width, y + height), (x, y + height)],
        [(x, y), (x + dx, y + dy), (x + width + dx, y + dy), (x + width, y)],
        [(x + width, y), (x + width + dx, y + dy), (x + width + dx, y + height + dy), (x + width, y + height)],
    )
    for corners, shade in zip(faces, shades, strict=True):
        board.add_patch(Polygon(corners, facecolor=shade, edgecolor=PAPER, linewidth=0.6, alpha=alpha))


def _shade(color: str, factor: float) -> tuple[float, float, float]:
    rgb = np.asarray(matplotlib.colors.to_rgb(color))
    mixed = rgb * factor if factor <= 1 else 1 - (1 - rgb) * (2 - factor)
    return tuple(np.clip(mixed, 0, 1))


def save(figure: Figure, path: Path | str, limit: int = _LIMIT) -> Path:
    """Write a PNG at twice the CSS size; colours, then resolution, are reduced until it has at most `limit` bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = b""
    for scale in (2.0, 1.6, 1.3, 1.0):
        figure.set_dpi(_DPI * scale)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        # 256 colours are plenty for a drawing and a visible loss only in photographs: those keep theirs if they fit.
        for palette in (False, True):
            pixels = drawn.quantize(256, dither=Image.Dither.NONE) if palette else drawn
            buffer = io.BytesIO()
            # The page reads the figure's CSS size from its resolution.
            pixels.save(buffer, "png", dpi=(96 * scale, 96 * scale))
            contents = buffer.getvalue()
            if len(contents) <= limit:
                break
        if len(contents) <= limit:
            break
    path.write_bytes(contents)
    return path
