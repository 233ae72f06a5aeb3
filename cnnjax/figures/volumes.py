"""Volumes of feature maps as solids, and whole networks as rows of them (article, sections 2.1, 2.4, 2.6, 4, 5)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax.article.worked_examples import Volume
from cnnjax.figures.canvas import (
    BLUE,
    BODY,
    GOLD,
    GREEN,
    HEAD,
    INK,
    MUTED,
    PAPER,
    PLUM,
    RED,
    SMALL,
    WIDTH,
    arrow,
    box,
    cell,
    outline,
    picture,
    save,
    sheet,
    text,
)

KINDS = {"input": GOLD, "convolution": BLUE, "pooling": RED, "flattened": PLUM, "dense": GREEN}


def _size(array: np.ndarray) -> str:
    return "×".join(str(n) for n in array.shape)


def volume(lesson: Volume, path: Path) -> Path:
    """A picture, one filter at one place, the map it makes, and the stack of all maps."""
    figure, board = sheet(WIDTH, 250)
    count, top = lesson.maps.shape[-1], 66
    kernel = lesson.kernels[..., 0]
    box(board, 44, top, (24, 130, 130), GOLD)
    box(board, 78, top + 26, (24, 22, 22), GREEN)
    text(board, 96, 228, f"input {_size(lesson.picture)}", BODY)
    text(board, 134, top + 34, f"filter {_size(kernel)}", SMALL, GREEN, ha="left")
    arrow(board, (206, top + 72), (272, top + 72))
    box(board, 300, top, (7, 130, 130), RED)
    text(board, 332, 228, f"one filter: {lesson.maps.shape[0]}×{lesson.maps.shape[1]}×1", BODY)
    arrow(board, (384, top + 72), (460, top + 72))
    for index in range(count):
        box(board, 500 + index * 14, top, (12, 130, 130), RED if index == 0 else BLUE)
    text(board, 596, 228, f"{count} filters: {_size(lesson.maps)}", BODY)
    return save(figure, path)


def maps(lesson: Volume, path: Path) -> Path:
    """The picture and the maps that the ten filters make of it, each under its filter."""
    count, side, left = lesson.maps.shape[-1], 106, 166
    figure, board = sheet(WIDTH, 2 * (side + 74) - 12)
    text(board, 4, 14, f"input {_size(lesson.picture)}", BODY, ha="left", weight="bold")
    picture(figure, lesson.picture, 4, 28, 150)
    columns = math.ceil(count / 2)
    gap = (WIDTH - left - columns * side) / columns
    for index in range(count):
        x = left + (index % columns) * (side + gap) + gap
        y = (index // columns) * (side + 74) + 4
        kernel = lesson.kernels[..., index]
        shown = 0.5 + kernel / (2 * np.abs(kernel).max())
        picture(figure, shown, x, y, 44)
        text(board, x + 50, y + 22, lesson.names[index].replace(", ", ",\n"), 7.2, MUTED, ha="left")
        map_ = lesson.maps[..., index]
        # Padding makes strong edges at the border; greys are for what is inside.
        low, high = np.percentile(map_[2:-2, 2:-2], (1, 99))
        picture(figure, map_, x, y + 50, side, cmap="gray", vmin=low, vmax=high)
    return save(figure, path)


def two_maps(lesson: Volume, path: Path, channels: tuple[int, int] = (1, 2)) -> Path:
    """Two filters work apart; their maps become two slices of one volume."""
    side = 120
    figure, board = sheet(WIDTH, 2 * side + 44)
    text(board, 4, 44, f"input {_size(lesson.picture)}", BODY, ha="left", weight="bold")
    picture(figure, lesson.picture, 4, 60, 160)
    bound = float(np.percentile(np.abs(lesson.maps[2:-2, 2:-2, channels]), 99))
    for row, (channel, color) in enumerate(zip(channels, (RED, BLUE), strict=True)):
        top = 4 + row * (side + 36)
        middle = top + side / 2
        kernel = lesson.kernels[..., channel]
        arrow(board, (172, 140), (218, middle), color)
        picture(figure, 0.5 + kernel / (2 * np.abs(kernel).max()), 226, middle - 28, 56)
        outline(board, 226, middle - 28, 56, 56, color)
        text(board, 254, middle + 42, lesson.names[channel], SMALL, MUTED)
        arrow(board, (292, middle), (336, middle), color)
        picture(figure, lesson.maps[..., channel], 346, top, side, cmap="gray", vmin=-bound, vmax=bound)
        outline(board, 346, top, side, side, color)
        arrow(board, (476, middle), (546, 140), color)
    for row, color in enumerate((RED, BLUE)):
        box(board, 566 + row * 16, 96, (14, 110, 110), color)
    shape = (*lesson.maps.shape[:2], len(channels))
    text(board, 620, 232, "×".join(map(str, shape)), BODY, weight="bold")
    return save(figure, path)


def pooled(lesson: Volume, path: Path, channel: int = 1) -> Path:
    """The volume before and after pooling, and one of its maps."""
    figure, board = sheet(WIDTH, 232)
    before, after = lesson.rectified, lesson.pooled
    box(board, 20, 62, (90, 128, 128), BLUE)
    text(board, 96, 216, _size(before), BODY, weight="bold")
    arrow(board, (192, 108), (232, 108))
    box(board, 256, 88, (90, 64, 64), RED)
    text(board, 314, 216, _size(after), BODY, weight="bold")
    span = {"cmap": "gray", "vmin": 0, "vmax": float(np.percentile(before[..., channel], 97))}
    picture(figure, before[..., channel], 430, 28, 176, **span)
    picture(figure, after[..., channel], 654, 72, 88, **span)
    arrow(board, (614, 116), (646, 116))
    text(board, 518, 216, f"one map, {before.shape[0]}×{before.shape[1]}", BODY)
    text(board, 698, 216, f"{after.shape[0]}×{after.shape[1]}", BODY)
    return save(figure, path)


def flattened(lesson: Volume, path: Path, units: int = 512) -> Path:
    """The pooled volume, the same numbers in a row, and a fully connected layer on them."""
    figure, board = sheet(WIDTH, 190)
    box(board, 20, 70, (100, 70, 70), RED)
    text(board, 88, 168, _size(lesson.pooled), BODY, weight="bold")
    arrow(board, (176, 92), (214, 92))
    values = lesson.pooled.reshape(-1)
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
    words = f"({values.size:,} + 1) × {units}\n= {(values.size + 1) * units:,}\nparameters"
    text(board, 612, 91, words, SMALL, MUTED, ha="left")
    return save(figure, path)


def _kind(name: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return "flattened" if name == "flatten" else "dense"
    return "pooling" if "pool" in name else "convolution"


def architecture(
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    image_shape: tuple[int, int, int],
    marked: Sequence[str] = (),
) -> Path:
    """A whole network, left to right: every layer's output as a solid.

    `shapes`: layer name -> output shape of one image, as `models.layer_shapes` gives it. Height and depth follow the
    map's side, width the number of channels (both compressed). Layers in `marked` get a red arrow.
    """
    layers = [("image", "input", image_shape)]
    layers += [(name, _kind(name, shape), tuple(shape)) for name, shape in shapes.items() if name != "dropout"]
    crowded = len(layers) > 14

    def solid(shape: tuple[int, ...]) -> tuple[float, float, float]:
        if len(shape) == 3:
            side = 24 + 136 * math.sqrt(shape[0] / image_shape[0])
            return 3.2 * math.log2(1 + shape[2]) * (0.55 if crowded else 1.0), side, side * 0.8
        return 9 if crowded else 13, 22 + 10 * math.log2(1 + shape[0]), 10

    solids = [solid(shape) for _, _, shape in layers]
    kinds = [kind for _, kind, _ in layers]
    # Layers of one block stand close; a new block, and every vector, gets air.
    close = [kinds[i - 1] == "convolution" and kinds[i] in ("convolution", "pooling") for i in range(1, len(layers))]
    step = 7 if crowded else 10
    free = WIDTH - 12 - 96 - sum(width for width, _, _ in solids) - step * sum(close)
    spaces = [0.0] + [step if near else free / (len(close) - sum(close)) for near in close]
    figure, board = sheet(WIDTH, 352)
    middle, x = 140, 12.0
    for index, ((name, kind, shape), (w, h, d), space) in enumerate(zip(layers, solids, spaces, strict=True)):
        x += space
        top = middle - h / 2 + d * 0.15
        box(board, x, top, (w, h, d), KINDS[kind])
        if name in marked:
            arrow(board, (x + w / 2, top + h + 22), (x + w / 2, top + h + 3), RED)
        first = kind != "convolution" or kinds[index - 1] != "convolution"
        if not crowded or (first and kind != "pooling"):
            short = name.split("_")[0] if crowded and kind == "convolution" else name
            words = f"{short}  {'×'.join(map(str, shape))}"
            slanted = {"rotation": -38, "ha": "left", "va": "top", "rotation_mode": "anchor"}
            text(board, x + w / 2 - 2, 264, words, 7.2, MUTED, **slanted)
        x += w
    x = 12
    for kind, color in KINDS.items():
        if kind in kinds:
            cell(board, x, 4, 10, fill=color, edge=color)
            text(board, x + 16, 9.5, kind, SMALL, INK, ha="left")
            x += 34 + 6.4 * len(kind)
    return save(figure, path)
