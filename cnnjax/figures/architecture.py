"""A network's layers, drawn as a row of cuboids (article, sections 2, 4 and 5)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnjax.figures.canvas import arrow, box, cell, save, sheet, text
from cnnjax.figures.style import BLUE, GOLD, GREEN, INK, MUTED, PLUM, RED, SMALL, WIDTH

KINDS = {"input": GOLD, "convolution": BLUE, "pooling": RED, "flattened": PLUM, "dense": GREEN}


def architecture(
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    image_shape: tuple[int, int, int],
    marked: Sequence[str] = (),
) -> Path:
    """Draw a network from left to right: the output of each layer as a cuboid.

    shapes: layer name -> shape of its output for one image, as `models.layer_shapes` returns it: (height, width,
    channels) or (units,). A cuboid's height and depth grow with the height of the maps, its width with the number of
    channels, both less than proportionally. image_shape: (height, width, channels). marked: layers that get a red
    arrow.
    """
    layers = [("image", "input", image_shape)]
    layers += [(name, _kind(name, shape), tuple(shape)) for name, shape in shapes.items() if name != "dropout"]
    crowded = len(layers) > 14

    def cuboid(shape: tuple[int, ...]) -> tuple[float, float, float]:
        if len(shape) == 3:
            side = 24 + 136 * math.sqrt(shape[0] / image_shape[0])
            return 3.2 * math.log2(1 + shape[2]) * (0.55 if crowded else 1.0), side, side * 0.8
        return 9 if crowded else 13, 22 + 10 * math.log2(1 + shape[0]), 10

    cuboids = [cuboid(shape) for _, _, shape in layers]
    kinds = [kind for _, kind, _ in layers]
    # Layers of one block stand close together; there is more space before a new block and around vectors.
    close = [kinds[i - 1] == "convolution" and kinds[i] in ("convolution", "pooling") for i in range(1, len(layers))]
    step = 7 if crowded else 10
    free = WIDTH - 12 - 96 - sum(width for width, _, _ in cuboids) - step * sum(close)
    spaces = [0.0] + [step if near else free / (len(close) - sum(close)) for near in close]
    figure, board = sheet(WIDTH, 352)
    middle, x = 140, 12.0
    for index, ((name, kind, shape), (w, h, d), space) in enumerate(zip(layers, cuboids, spaces, strict=True)):
        x += space
        top = middle - h / 2 + d * 0.15
        box(board, x, top, (w, h, d), KINDS[kind])
        if name in marked:
            arrow(board, (x + w / 2, top + h + 22), (x + w / 2, top + h + 3), RED)
        first = kind != "convolution" or kinds[index - 1] != "convolution"
        if not crowded or (first and kind != "pooling"):
            short = name.split("_")[0] if crowded and kind == "convolution" else name
            label = f"{short}  {'×'.join(map(str, shape))}"
            slanted = {"rotation": -38, "ha": "left", "va": "top", "rotation_mode": "anchor"}
            text(board, x + w / 2 - 2, 264, label, 7.2, MUTED, **slanted)
        x += w
    x = 12
    for kind, color in KINDS.items():
        if kind in kinds:
            cell(board, x, 4, 10, fill=color, edge=color)
            text(board, x + 16, 9.5, kind, SMALL, INK, ha="left")
            x += 34 + 6.4 * len(kind)
    return save(figure, path)


def _kind(name: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return "flattened" if name == "flatten" else "dense"
    return "pooling" if "pool" in name else "convolution"
