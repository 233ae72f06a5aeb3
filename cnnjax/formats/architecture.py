"""Which network a file's arrays belong to, from their names and shapes alone."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from cnnjax.cli.config import ModelConfig
from cnnjax.models import small_cnn, vgg
from cnnjax.models.layers import scaled

TOP = ("fc1", "fc2", "predictions")
SMALL_TOP = ("dense_1", "dense_2", "output")
Shapes = Mapping[str, tuple[int, ...]]
"""By our names, as `block1_conv1/kernel`, in our layout."""


class Architecture(NamedTuple):
    """What a file holds: enough to make the network that its arrays fit. Without `top` there are no `outputs`."""

    model: ModelConfig
    side: int
    outputs: int
    top: bool


def layers(model: ModelConfig, top: bool = True) -> list[str]:
    """The layers with parameters, in order."""
    if model.name == "small-cnn":
        return [f"conv_{i}" for i in range(1, len(small_cnn.CHANNELS) + 1)] + list(SMALL_TOP if top else ())
    stages = vgg.STAGES[int(model.name.removeprefix("vgg"))]
    convolutions = [f"block{b}_conv{i}" for b, count in enumerate(stages, 1) for i in range(1, count + 1)]
    return convolutions + list(TOP if top else ())


def infer(shapes: Shapes) -> Architecture | None:
    """The network that these arrays are nearest to, or None if they are not near any.

    Where some are missing or of a wrong shape, the others decide, so that the wrong ones can be named. Of the sides
    that give the first dense layer as many inputs it is the least: 224 for 7 × 7, and 224 too without dense layers.
    """
    names = {name.partition("/")[0] for name in shapes}
    models = [ModelConfig(name="small-cnn"), *(ModelConfig(name=f"vgg{n}") for n in vgg.STAGES)]
    model = min(models, key=lambda m: len(set(layers(m)) ^ names))
    if not set(layers(model, top=False)) & names:
        return None
    small = model.name == "small-cnn"
    table = small_cnn.CHANNELS if small else vgg.CHANNELS
    number = {name: int(name.removeprefix("conv_" if small else "block")[0]) for name in layers(model, top=False)}
    kernels = [
        (table[number[name] - 1], shape[3])
        for name in layers(model, top=False)
        if len(shape := shapes.get(f"{name}/kernel", ())) == 4
    ]
    width = (_width(kernels) if kernels else 0) or 1.0
    top = SMALL_TOP if small else TOP
    first, last = shapes.get(f"{top[0]}/kernel", ()), shapes.get(f"{top[2]}/bias") or shapes.get(f"{top[2]}/kernel")
    halvings, channels = len(table), scaled(table[-1], width)
    cells = math.isqrt(first[0] // channels) if len(first) == 2 else 0
    side = (cells or 7) << halvings
    model = replace(model, width=width)
    if not small and len(first) == 2 and first[1] != scaled(4096, width):
        model = replace(model, dense=first[1])
    outputs = (last[-1] if last else 0) or 1000
    return Architecture(model, side, outputs, any(name in names for name in top))


def _width(kernels: list[tuple[int, int]]) -> float:
    """The width multiplier of most (channels at width 1, channels found), as round a number as there is."""

    def common(pairs: list[tuple[int, int]]) -> tuple[int, float]:
        low, high = 0.0, math.inf
        for full, units in pairs:
            least, most = max(low, (units - 0.5) / full), min(high, (units + 0.5) / full)
            if least <= most:
                low, high = least, most
        for digits in range(10):
            width = round((low + high) / 2, digits)
            if low < width < high:
                break
        return sum(scaled(full, width) == units for full, units in pairs), width

    return max(common(kernels), common(kernels[::-1]))[1]
