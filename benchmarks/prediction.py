"""A model of the time of a training step on many chips, from FLOPs, bytes of gradients and bandwidths of links.

    python benchmarks/prediction.py
    python benchmarks/prediction.py --model small-cnn --batch-size 32

compute   = FLOPs of a chip's part of the batch / (the chip's peak × the share of it that is reached)
reduction = sum over levels of 2 (n - 1) / n × bytes / bandwidth, where a level joins n chips or groups of them

A level is what one kind of link joins. The inner level leaves each chip 1 / n of the sums to exchange on the next one
(reduce and scatter, exchange, gather). A step takes compute + reduction if gradients are summed after the backward
pass, and the longer of the two if they are summed entirely during it; any program is in between. Latencies (some
microseconds per hop) and the input pipeline are left out. README.md gives the sources of the numbers.
"""

import math
from dataclasses import dataclass
from typing import Literal

import compare
import flops
from step_time import SMALL, VGG

from cnnjax.cli import command_line
from cnnjax.errors import UserError

CHIPS = (8, 64, 512)


@dataclass(frozen=True)
class Level:
    """`size` chips, or groups of them, joined by links that each chip sends over at `bandwidth` bytes per second."""

    size: int
    bandwidth: float


@dataclass(frozen=True)
class Machine:
    """peak: FLOP/s of a chip in bfloat16. share: the part of it that a step reaches. levels: by number of chips."""

    peak: float
    share: float
    levels: dict[int, tuple[Level, ...]]


# Links: a chip of a TPU without wrap-around (below 16 a side on v5e, 4 on v5p) can use two of four, or three of six.
MACHINES = {
    "TPU v5e": Machine(
        197e12, 0.58, {8: (Level(8, 100e9),), 64: (Level(64, 100e9),), 512: (Level(256, 200e9), Level(2, 3.125e9))}
    ),
    "TPU v5p": Machine(459e12, 0.63, {8: (Level(8, 300e9),), 64: (Level(64, 600e9),), 512: (Level(512, 600e9),)}),
    "H100": Machine(
        989e12, 0.4, {n: (Level(8, 450e9), *((Level(n // 8, 50e9),) if n > 8 else ())) for n in CHIPS}
    ),
}  # fmt: skip


def reduction(levels: tuple[Level, ...], size: float) -> float:
    """Seconds to sum `size` bytes over all chips."""
    seconds = 0.0
    for level in levels:
        seconds += 2 * (level.size - 1) / level.size * size / level.bandwidth
        size /= level.size
    return seconds


def prediction(
    *, model: Literal["small-cnn", "vgg16"] = "vgg16", batch_size: int = 128, share: float = 0.0, bytes_each: int = 4
) -> None:
    """Print a table of predicted steps.

    Args:
        model: The network that is trained.
        batch_size: Images per chip.
        share: The share of a chip's peak that a step reaches; 0 takes each machine's own.
        bytes_each: Bytes of one parameter's gradient: 4 in float32.
    """
    if batch_size < 1 or not 0 <= share <= 1:
        raise UserError(f"--batch-size {batch_size} must be 1 or more, and --share {share} from 0 to 1")
    work = (SMALL if model == "small-cnn" else VGG) | {"task": "train", "batch_size": batch_size}
    gradients = bytes_each * flops.network(work).parameters
    lines = []
    for name, machine in MACHINES.items():
        compute = flops.count(work) / (machine.peak * (share or machine.share))
        for chips, levels in machine.levels.items():
            assert math.prod(level.size for level in levels) == chips
            summed = reduction(levels, gradients)
            longest, shortest = compute + summed, max(compute, summed)
            lines.append((
                name, str(chips), f"{1e3 * compute:.1f}", f"{1e3 * summed:.1f}",
                f"{1e3 * shortest:.1f}–{1e3 * longest:.1f}",
                f"{chips * batch_size / longest:,.0f}–{chips * batch_size / shortest:,.0f}",
                f"{compute / longest:.0%}–{compute / shortest:.0%}",
            ))  # fmt: skip
    counted = f"{flops.count(work) / 1e12:.2f} TFLOP, gradients {gradients / 1e6:.1f} MB"
    print(f"{model}, {batch_size} images per chip, {counted}")
    head = ("machine", "chips", "compute, ms", "reduction, ms", "step, ms", "images/s", "efficiency")
    print(compare.aligned(head, lines))


if __name__ == "__main__":
    command_line.main(prediction)
