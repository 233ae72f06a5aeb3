"""How a training step scales with the number of devices: weak and strong, pmap and mesh, and their cost per step.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --model vgg16 --batch-size 1024 --each 128 --calls 10

Weak: every device has the same number of images. Strong: the devices divide one batch. A CPU is divided into the
devices, which share its cores, so there only losses can be seen. The cost of a step is that of a network so small that
little else remains, as a call of its own and as one of a hundred steps in a call. `prediction.py` is about larger
machines.
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
TINY = {"model": "small-cnn", "image_size": 16, "width_multiplier": 1 / 32, "task": "train"}


@dataclass(frozen=True)
class Point:
    """One strategy on `value` devices; images per second.

    batch_size: of all devices together. efficiency: the rate divided by that of one device with jit times the number of
    devices; on a CPU, whose devices share its cores, times one.
    """

    axis: Literal["weak", "strong"]
    value: int
    who: str
    batch_size: int
    median: float
    slowest: float
    fastest: float
    efficiency: float


@dataclass(frozen=True)
class Cost:
    """Seconds per step of the tiny network, with one image on each device.

    alone: as a call of one step. among_many: as one of `MANY` steps in a call.
    """

    who: str
    devices: int
    alone: float
    among_many: float


def measure(
    work: dict[str, Any], batch_sizes: dict[int, int], turns: dict[str, int], steps: int = 1
) -> dict[tuple[int, str], compare.Row]:
    """Both strategies on every number of devices (jit on one), side by side: (number, mode) -> row of `compare`."""
    contenders = {
        (n, mode): on_devices(n, batch_size, mode=mode, steps=steps)
        for n, batch_size in batch_sizes.items()
        for mode in (("mesh", "pmap") if n > 1 else ("jit",))
    }
    rows = {row.who: row for row in compare.compare(work, list(contenders.values()), **turns)}
    return {key: rows[contender.who] for key, contender in contenders.items() if contender.who in rows}


def points(
    axis: Literal["weak", "strong"],
    batch_sizes: dict[int, int],
    rows: dict[tuple[int, str], compare.Row],
    share_cores: bool,
) -> list[Point]:
    """The measurements of an axis; the one with a single device belongs to both strategies."""
    rates = {
        key: tuple(batch_sizes[key[0]] / seconds for seconds in (row.median, row.high, row.low))
        for key, row in rows.items()
    }
    one = rates[1, "jit"][0]
    return [
        Point(axis, n, who, batch_sizes[n], *rate, rate[0] / (one * (1 if share_cores else n)))
        for (n, mode), rate in rates.items()
        for who in (("mesh", "pmap") if mode == "jit" else (mode,))
    ]


def costs(devices: Sequence[int], turns: dict[str, int]) -> list[Cost]:
    """Steps of the tiny network."""
    sizes = {n: n for n in devices}
    alone, among = (
        measure(TINY | {"name": f"a tiny network, {steps} steps per call"}, sizes, turns, steps) for steps in (1, MANY)
    )
    return [
        Cost(mode, n, alone[n, mode].median, among[n, mode].median / MANY) for n, mode in alone if (n, mode) in among
    ]


def scaling(
    *,
    model: Literal["small-cnn", "vgg16"] = "small-cnn",
    axes: tuple[Literal["weak", "strong"], ...] = ("weak", "strong"),
    devices: tuple[int, ...] = (1, 2, 4, 8),
    batch_size: int = 32,
    each: int = 8,
    image_size: int = 0,
    rounds: int = 5,
    calls: int = 2,
    out: Path = Path("benchmarks/results/scaling.json"),
) -> None:
    """Time training steps on growing numbers of devices.

    Args:
        model: The network that is trained.
        axes: The kinds of scaling.
        devices: Numbers of devices; 1, which efficiency refers to, must be among them.
        batch_size: Images per step that all devices share (strong).
        each: Images per step on each device (weak).
        image_size: Height and width in pixels; 0 takes the article's.
        rounds: Turns of each contender.
        calls: Steps per turn.
        out: The file for the results.
    """
    if 1 not in devices or min(devices) < 1:
        raise UserError(
            f"--devices {' '.join(map(str, devices))}: 1 must be among them, because efficiency refers to it"
        )
    if uneven := [n for n in devices if batch_size % n]:
        raise UserError(
            f"a batch of {batch_size} cannot be divided evenly among {uneven[0]} devices: give another --batch-size"
        )
    base = (SMALL if model == "small-cnn" else VGG) | {"task": "train"}
    base |= {"image_size": image_size} if image_size else {}
    turns = {"rounds": rounds, "calls": calls}
    sizes = {"weak": {n: each * n for n in devices}, "strong": dict.fromkeys(devices, batch_size)}
    rows = {axis: measure(base | {"name": f"{model}, {axis}"}, sizes[axis], turns) for axis in axes}
    spent = costs(devices, {"rounds": rounds, "calls": 10})
    device = jax.devices()[0]  # not before: it would be taken from the contenders
    found = {axis: points(axis, sizes[axis], rows[axis], device.platform == "cpu") for axis in axes}
    for axis, some in found.items():
        print(compare.aligned((axis, "devices", "batch size", "images/s", "slowest", "fastest", "efficiency"), [
            (p.who, str(p.value), str(p.batch_size), *(f"{rate:.1f}" for rate in (p.median, p.slowest, p.fastest)),
             f"{p.efficiency:.0%}") for p in some
        ]))  # fmt: skip
    lines = [(c.who, str(c.devices), f"{1e6 * c.alone:.0f}", f"{1e6 * c.among_many:.0f}") for c in spent]
    print(compare.aligned(("step of a tiny network", "devices", "µs alone", f"µs among {MANY}"), lines))
    more = {"model": model, "image_size": base["image_size"], **turns, "costs": [asdict(cost) for cost in spent]}
    compare.write(out, [point for some in found.values() for point in some], device.device_kind, more)
    labels = {"weak": f"devices, each with {each} images", "strong": f"devices sharing {batch_size} images"}
    plot = figures.growth({labels[axis]: some for axis, some in found.items()}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(scaling)
