"""How a training step scales with the number of devices: weak and strong, pmap beside mesh, and what each costs a step.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --model vgg16 --batch 1024 --each 128 --calls 10

Weak: every device has as many pictures. Strong: they share a batch out. On a CPU as many devices are made of its cores,
which they share, so there only what gets lost can be seen. The cost of a step is that of a network so small that little
else is left, in a call of its own and as one of a hundred in a call. `prediction.py` is about larger machines.
Writes benchmarks/results/scaling.json and a plot next to it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import compare
import jax
from growth import on_devices
from step_time import SMALL, VGG

from cnnjax import figures
from cnnjax.cli import command_line
from cnnjax.errors import UserError

MANY = 100
TINY = {"model": "small-cnn", "image_size": 16, "width": 1 / 32, "task": "train"}


@dataclass(frozen=True)
class Point:
    """One mode at one number of devices (`value`), which have `batch` pictures together; images per second.

    `efficiency`: the rate, over one device's through jit times the number of devices (on a CPU, whose devices are the
    same cores, times one).
    """

    axis: Literal["weak", "strong"]
    value: int
    who: str
    batch: int
    median: float
    slowest: float
    fastest: float
    efficiency: float


@dataclass(frozen=True)
class Cost:
    """Seconds that a step of the tiny network takes one mode on so many devices, one picture each."""

    who: str
    devices: int
    alone: float
    among_many: float


def measured(work: dict[str, Any], batches: dict[int, int], turns: dict[str, int], steps: int = 1) -> dict:
    """Both modes on every number of devices (one: jit) side by side: (number, mode) -> compare's row."""
    ways = {
        (n, mode): on_devices(n, batch, mode=mode, steps=steps)
        for n, batch in batches.items()
        for mode in (("mesh", "pmap") if n > 1 else ("jit",))
    }
    rows = {row.who: row for row in compare.compare(work, list(ways.values()), **turns)}
    return {place: rows[way.who] for place, way in ways.items() if way.who in rows}


def points(axis: Literal["weak", "strong"], batches: dict[int, int], rows: dict, same: bool) -> list[Point]:
    """What was measured on an axis; one device belongs to both modes. `same`: all devices are the same cores."""
    rates = {
        place: tuple(batches[place[0]] / t for t in (row.median, row.high, row.low)) for place, row in rows.items()
    }
    one = rates[1, "jit"][0]
    return [
        Point(axis, n, who, batches[n], *rate, rate[0] / (one * (1 if same else n)))
        for (n, mode), rate in rates.items()
        for who in (("mesh", "pmap") if mode == "jit" else (mode,))
    ]


def costs(devices: Sequence[int], turns: dict[str, int]) -> list[Cost]:
    """The tiny network's steps."""
    batches = {n: n for n in devices}
    alone, among = (
        measured(TINY | {"name": f"a tiny network, {steps} steps a call"}, batches, turns, steps) for steps in (1, MANY)
    )
    return [
        Cost(mode, n, alone[n, mode].median, among[n, mode].median / MANY) for n, mode in alone if (n, mode) in among
    ]


def scaling(
    *,
    model: Literal["small-cnn", "vgg16"] = "small-cnn",
    axes: tuple[Literal["weak", "strong"], ...] = ("weak", "strong"),
    devices: tuple[int, ...] = (1, 2, 4, 8),
    batch: int = 32,
    each: int = 8,
    image_size: int = 0,
    rounds: int = 5,
    calls: int = 2,
    out: Path = Path("benchmarks/results/scaling.json"),
) -> None:
    """Time training steps on growing numbers of devices.

    Args:
        model: Whose training step.
        axes: Which kinds of scaling.
        devices: How many; 1 among them, which efficiency refers to.
        batch: Images per step that devices share out (strong).
        each: Images per step that each device has (weak).
        image_size: Height and width in pixels; 0 takes the article's.
        rounds: Turns of each.
        calls: Steps per turn.
        out: The file for the results.
    """
    if 1 not in devices or min(devices) < 1:
        raise UserError(f"--devices {' '.join(map(str, devices))}: 1 must be among them, for efficiency refers to it")
    if uneven := [n for n in devices if batch % n]:
        raise UserError(f"a batch of {batch} cannot be shared out to {uneven[0]} devices: give another --batch-size")
    base = (SMALL if model == "small-cnn" else VGG) | {"task": "train"}
    base |= {"image_size": image_size} if image_size else {}
    turns = {"rounds": rounds, "calls": calls}
    batches = {"weak": {n: each * n for n in devices}, "strong": dict.fromkeys(devices, batch)}
    rows = {axis: measured(base | {"name": f"{model}, {axis}"}, batches[axis], turns) for axis in axes}
    spent = costs(devices, {"rounds": rounds, "calls": 10})
    device = jax.devices()[0]  # not before: it would be taken from the contenders
    found = {axis: points(axis, batches[axis], rows[axis], device.platform == "cpu") for axis in axes}
    for axis, some in found.items():
        print(compare.aligned((axis, "devices", "batch_size", "images/s", "slowest", "fastest", "efficiency"), [
            (p.who, str(p.value), str(p.batch), *(f"{rate:.1f}" for rate in (p.median, p.slowest, p.fastest)),
             f"{p.efficiency:.0%}") for p in some
        ]))  # fmt: skip
    lines = [(c.who, str(c.devices), f"{1e6 * c.alone:.0f}", f"{1e6 * c.among_many:.0f}") for c in spent]
    print(compare.aligned(("a tiny network's step", "devices", "µs alone", f"µs among {MANY}"), lines))
    more = {"model": model, "image_size": base["image_size"], **turns, "costs": [asdict(cost) for cost in spent]}
    compare.write(out, [point for some in found.values() for point in some], device.device_kind, more)
    labels = {"weak": f"devices, each with {each} pictures", "strong": f"devices sharing {batch} pictures"}
    plot = figures.growth({labels[axis]: some for axis, some in found.items()}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(scaling)
