"""One step of the article's networks: this package, plain Flax, Keras on TensorFlow and PyTorch, side by side.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --workloads small-train --who cnnjax "PyTorch eager" --rounds 15

Needs the extra `peers`. The device's peak FLOP/s are measured first. Writes benchmarks/results/step_time.json and a
plot next to it.
"""

from dataclasses import asdict
from pathlib import Path

import compare
import flops
import peak

from cnnjax import figures
from cnnjax.cli import command_line
from cnnjax.errors import unknown

SMALL, VGG = (
    {"model": "small-cnn", "batch_size": 32, "image_size": 150},
    {"model": "vgg16", "batch_size": 8, "image_size": 224},
)
WORKLOADS = {
    "small-train": SMALL | {"task": "train"},
    "small-forward": SMALL | {"task": "forward"},
    "vgg16-train": VGG | {"task": "train"},
    "vgg16-forward": VGG | {"task": "forward"},
    "vgg16-input-gradient": VGG | {"task": "input-gradient", "layer": "block5_conv3"},
}


def step_time(
    *,
    workloads: tuple[str, ...] = tuple(WORKLOADS),
    who: tuple[str, ...] = tuple(compare.EVERYONE),
    batch_size: int = 0,
    image_size: int = 0,
    rounds: int = 7,
    calls: int = 3,
    out: Path = Path("benchmarks/results/step_time.json"),
) -> None:
    """Time steps side by side.

    Args:
        workloads: Any of small-train, small-forward, vgg16-train, vgg16-forward, vgg16-input-gradient.
        who: The contenders; ratios refer to cnnjax.
        batch_size: Images per step; 0 takes the workload's own.
        image_size: Height and width in pixels; 0 takes the workload's own.
        rounds: Turns of each contender.
        calls: Steps per turn.
        out: The file for the results.
    """
    contenders = compare.chosen(who)
    for name in workloads:
        if name not in WORKLOADS:
            raise unknown("workload", name, WORKLOADS)
    limit = peak.measure()
    found: list[compare.Row] = []
    for name in workloads:
        work = WORKLOADS[name] | {"name": name}
        work |= {key: value for key, value in (("batch_size", batch_size), ("image_size", image_size)) if value}
        work["flops"] = flops.count(work)
        found += compare.compare(work, contenders, rounds=rounds, calls=calls, peak=limit.flops_per_second)
        print(compare.table([row for row in found if row.workload == name]), flush=True)
    more = {"rounds": rounds, "calls": calls, "peak": asdict(limit)}
    compare.write(out, found, limit.device, more)
    plot = figures.compare(
        {name: [r for r in found if r.workload == name] for name in workloads}, out.with_suffix(".png")
    )
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(step_time)
