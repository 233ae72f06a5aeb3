"""Drawing primitives. Coordinates are CSS pixels from the top left corner; figures are saved as small PNG files."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle
from PIL import Image

from cnnjax.figures.style import BODY, INK, MUTED, PAPER, RULE, SMALL, Color
from cnnjax.files import atomic_write
from cnnjax.printable import printable

_DPI = 100
LIMIT = 150_000
"""Bytes of a figure's file."""


def sheet(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty figure, and an axes that covers it, whose data coordinates are CSS pixels with y pointing down."""
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=PAPER)
    board = figure.add_axes((0, 0, 1, 1))
    board.set_xlim(0, width)
    board.set_ylim(height, 0)
    board.set_axis_off()
    return figure, board


def plot(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """A plot with thin left and bottom axes, at a position and of a size in CSS pixels."""
    w, h = figure.get_size_inches() * _DPI
    axes = figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=MUTED, labelsize=SMALL, length=3)
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    return axes


def image(
    figure: Figure, pixels: np.ndarray, left: float, top: float, width: float, height: float | None = None, **style
) -> Axes:
    """Show an array (height, width) or (height, width, 3) in a square, or in a rectangle, without smoothing.

    width, height: size on the sheet in CSS pixels. style: passed on to `Axes.imshow`.
    """
    height = width if height is None else height
    w, h = figure.get_size_inches() * _DPI
    axes = figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
    axes.set_axis_off()
    axes.imshow(pixels, **{"interpolation": "nearest", "aspect": "auto", **style})
    return axes


def photograph(figure: Figure, pixels: np.ndarray, left: float, top: float, side: float, **style) -> Axes:
    """Show an image (height, width), (height, width, 1) or (height, width, 3), centered in a square.

    Values are uint8, or floats in [0, 1]; floats outside of it are clipped. style: passed on
    to `Axes.imshow`.
    """
    pixels = np.asarray(pixels)
    style = {"vmin": 0, "vmax": 255 if pixels.dtype == np.uint8 else 1} | style
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 2:
        style["cmap"] = "gray"
    elif pixels.dtype != np.uint8:
        pixels = np.clip(pixels, 0, 1)
    height, width = (side * n / max(pixels.shape[:2]) for n in pixels.shape[:2])
    return image(figure, pixels, left + (side - width) / 2, top + (side - height) / 2, width, height, **style)


def text(
    board: Axes, x: float, y: float, content: str | Sequence[str], size: float = BODY, color: str = INK, **style
) -> None:
    """Draw text, by default centered on (x, y): one line, or a sequence of lines. style: passed on to `Axes.text`."""
    lines = [content] if isinstance(content, str) else content
    # Names may hold line ends, and dollar signs, which would be read as formulas.
    board.text(
        x,
        y,
        "\n".join(map(printable, lines)),
        parse_math=False,
        **{"fontsize": size, "color": color, "ha": "center", "va": "center", **style},
    )


def cell(board: Axes, x: float, y: float, side: float, content: str = "", fill: Color = PAPER, **style) -> None:
    """Draw one square cell of a table, with text in it."""
    edge = style.pop("edge", RULE)
    board.add_artist(Rectangle((x, y), side, side, facecolor=fill, edgecolor=edge, linewidth=0.8))
    if content:
        text(board, x + side / 2, y + side / 2 + 0.5, content, **style)


def grid(board: Axes, rows: int, columns: int, x: float, y: float, side: float) -> None:
    """Draw the lines of a table of empty cells: one artist, where as many `cell`s would be slow."""
    across = [[(x, y + i * side), (x + columns * side, y + i * side)] for i in range(rows + 1)]
    down = [[(x + j * side, y), (x + j * side, y + rows * side)] for j in range(columns + 1)]
    board.add_artist(LineCollection(across + down, colors=RULE, linewidths=0.8))


def outline(board: Axes, x: float, y: float, width: float, height: float, color: str, **style) -> None:
    """Draw a frame without filling it."""
    board.add_artist(Rectangle((x, y), width, height, fill=False, edgecolor=color, **{"linewidth": 2, **style}))


def arrow(board: Axes, start: tuple[float, float], end: tuple[float, float], color: str = MUTED) -> None:
    """Draw a thin arrow from `start` to `end`."""
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    board.add_artist(FancyArrowPatch(start, end, color=color, **style))


def box(board: Axes, x: float, y: float, size: tuple[float, float, float], color: str, alpha: float = 1.0) -> None:
    """Draw a cuboid in oblique projection, which stands for a stack of feature maps.

    (x, y) is the top left corner of its front face. `size` is (width, height, depth), where the width stands for the
    number of channels, the height for the maps' height, and the depth, which recedes to the upper right, for their
    width.
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
        board.add_artist(Polygon(corners, facecolor=shade, edgecolor=PAPER, linewidth=0.6, alpha=alpha))


def _shade(color: str, factor: float) -> tuple[float, float, float]:
    rgb = np.asarray(matplotlib.colors.to_rgb(color))
    mixed = rgb * factor if factor <= 1 else 1 - (1 - rgb) * (2 - factor)
    return tuple(np.clip(mixed, 0, 1))


def save(figure: Figure, path: Path | str, limit: int | None = LIMIT) -> Path:
    """Write a PNG at twice the CSS size and return its path.

    If the file is larger than `limit` bytes, the number of colors is reduced to 256, and then the resolution. With
    None, the file may have any size.
    """
    path = Path(path)
    contents = b""
    for scale in (2.0, 1.6, 1.3, 1.0):
        drawn = _drawn(figure, scale)
        # Only in photographs is a palette of 256 colors visible. They keep all colors if the file is small enough.
        for palette in (False, True):
            pixels = drawn.quantize(256, dither=Image.Dither.NONE) if palette else drawn
            buffer = io.BytesIO()
            # The article's page computes the figure's CSS size from this resolution.
            pixels.save(buffer, "png", dpi=(96 * scale, 96 * scale))
            contents = buffer.getvalue()
            if limit is None or len(contents) <= limit:
                break
        if limit is None or len(contents) <= limit:
            break
    atomic_write(path, lambda temporary: temporary.write_bytes(contents))
    return path


def save_film(figures: Sequence[Figure], path: Path | str, milliseconds: int = 700, hold: int = 2500) -> Path:
    """Write a GIF at twice the CSS size, which repeats for ever, and return its path.

    figures: the frames, of one size. milliseconds: that each is shown; the last one is shown for `hold`.
    """
    path = Path(path)
    pictures = _with_palette([_drawn(figure, 2.0) for figure in figures])
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    atomic_write(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
    return path


def _with_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames in the 64 most frequent colours of all of them: what does not change has the same number in each.

    Pillow's own palettes hold means, in which white is a little grey.
    """
    packed = np.stack([np.asarray(frame, np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32) for frame in frames])
    counts = np.bincount(packed.reshape(-1), minlength=1 << 24)
    found = np.flatnonzero(counts)
    colors = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    palette = colors[np.argsort(-counts[found], kind="stable")[:64]]
    numbers = np.zeros(1 << 24, np.uint8)
    numbers[found] = ((colors[:, None] - palette) ** 2).sum(-1).argmin(1)
    pictures = [Image.fromarray(numbers[frame]) for frame in packed]
    for picture in pictures:
        picture.putpalette(palette.astype(np.uint8).tobytes())
    return pictures


def _drawn(figure: Figure, scale: float) -> Image.Image:
    """The figure as an image with `scale` pixels for each CSS pixel."""
    figure.set_dpi(_DPI * scale)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn in its place
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
