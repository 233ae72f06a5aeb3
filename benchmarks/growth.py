"""How the training step scales: images per second by batch size, by image size and by the number of devices.

    python benchmarks/growth.py
    python benchmarks/growth.py --model vgg16 --who cnnjax --batch-sizes 4 8 --image-sizes 64 128 --devices

Batch sizes and image sizes are measured for all contenders, side by side; numbers of devices for cnnjax alone, the
numbers taking turns. A CPU is divided into the devices, which share its cores; elsewhere the first devices are used.
Writes benchmarks/results/growth.json and a plot next to it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import compare
import flops
import peak
from step_time import SMALL, VGG

from cnnjax import figures
from cnnjax.cli import command_line
from cnnjax.errors import UserError


@dataclass(frozen=True)
class Point:
    """One contender at one value of an axis ("batch_size", "image_size" or "devices"); images per second.

    batch_size: of all devices together.
    """

    axis: str
    value: int
    who: str
    batch_size: int
    image_size: int
    median: float
    slowest: float
    fastest: float
    flops_per_second: float
    peak_share: float


def point(axis: str, value: int, who: str, work: dict, row: compare.Row, peak: float) -> Point:
    """A row of `compare` as a point. peak: FLOP/s of all devices that are used."""
    batch_size, rate = work["batch_size"], flops.count(work) / row.median
    images = (batch_size / row.median, batch_size / row.high, batch_size / row.low)
    return Point(axis, value, who, batch_size, work["image_size"], *images, rate, rate / peak)


def on_devices(count: int, batch_size: int, **options: Any) -> compare.Contender:
    """cnnjax on `count` devices, which share a batch; a CPU is divided into them. options: see `ours_devices.py`."""
    environment = [("JAX_NUM_CPU_DEVICES", str(count))]
    if count > 1:
        # With fewer threads than devices, the devices' all-reduces wait for each other until they time out.
        environment.append(("NPROC", str(4 * count)))
    options = {"devices": count, "batch_size": batch_size} | options
    mode = f", {options['mode']}" if "mode" in options else ""
    name = f"{count} device{'s' * (count > 1)}{mode}"
    return compare.Contender(name, "ours_devices", tuple(options.items()), tuple(environment))


def by_devices(
    devices: tuple[int, ...], base: dict, weak: bool, turns: dict[str, int], limit: peak.Peak
) -> list[Point]:
    """cnnjax on each number of devices, taking turns. weak: each device has the whole batch of `base`."""
    works = {n: base | {"batch_size": base["batch_size"] * (n if weak else 1)} for n in devices}
    parts = {n: on_devices(n, work["batch_size"]) for n, work in works.items()}
    common = base | {"name": f"{base['model']} on {', '.join(map(str, devices))} devices"}
    rows = {row.who: row for row in compare.compare(common, list(parts.values()), **turns)}
    points = []
    for n, part in parts.items():
        if part.who in rows:
            # The devices of one CPU share its cores.
            many = limit.flops_per_second * (1 if limit.device == "cpu" else n)
            points.append(point("devices", n, compare.OURS.who, works[n], rows[part.who], many))
            print(f"{part.who}, batch size {points[-1].batch_size}: {points[-1].median:.1f} images/s", flush=True)
    return points


def growth(
    *,
    model: Literal["small-cnn", "vgg16"] = "small-cnn",
    who: tuple[str, ...] = (compare.OURS.who, compare.KERAS.who, compare.TORCH.who),
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64),
    image_sizes: tuple[int, ...] = (64, 100, 150, 224),
    devices: tuple[int, ...] = (1, 2, 4),
    batch_size: int = 0,
    image_size: int = 0,
    scaling: Literal["strong", "weak"] = "strong",
    mode: Literal["mesh", "pmap"] = "mesh",
    rounds: int = 5,
    calls: int = 3,
    out: Path = Path("benchmarks/results/growth.json"),
) -> None:
    """Time training steps along three axes.

    Args:
        model: The network that is trained.
        who: The contenders for batch sizes and image sizes.
        batch_sizes: Images per step; none leaves the axis out.
        image_sizes: Height and width in pixels; none leaves the axis out.
        devices: Numbers of devices, for cnnjax only; none leaves the axis out.
        batch_size: Images per step on the other axes; 0 takes the article's.
        image_size: Height and width in pixels on the other axes; 0 takes the article's.
        scaling: On the axis of devices: strong divides the batch among them, weak gives each device a whole one.
        mode: The strategy for several devices.
        rounds: Turns of each contender.
        calls: Steps per turn.
        out: The file for the results.
    """
    contenders = compare.chosen(who)
    base = (SMALL if model == "small-cnn" else VGG) | {"task": "train"}
    base |= {key: value for key, value in (("batch_size", batch_size), ("image_size", image_size)) if value}
    for name, values in (("batch-sizes", batch_sizes), ("image-sizes", image_sizes), ("devices", devices)):
        if any(value < 1 for value in values):
            raise UserError(f"--{name} {min(values)} is too small: use 1 or more")
    if not (batch_sizes or image_sizes or devices):
        raise UserError("there is nothing to measure: give --batch-sizes, --image-sizes or --devices a value")
    for count in devices:
        if scaling == "strong" and base["batch_size"] % count:
            raise UserError(
                f"a batch of {base['batch_size']} cannot be divided evenly among {count} devices: "
                "give another --batch-size"
            )
    limit = peak.measure()
    turns = {"rounds": rounds, "calls": calls}
    measured: dict[tuple[int, int], list[compare.Row]] = {}
    points: list[Point] = []
    for axis, values in (("batch_size", batch_sizes), ("image_size", image_sizes)):
        for value in values:
            work = base | {axis: value, "name": f"{model}, {axis.replace('_', ' ')} {value}"}
            work["flops"] = flops.count(work)
            place = (work["batch_size"], work["image_size"])  # where the axes cross there is nothing to measure twice
            if place not in measured:
                measured[place] = compare.compare(work, contenders, **turns, peak=limit.flops_per_second)
                print(compare.table(measured[place]), flush=True)
            points += [point(axis, value, row.who, work, row, limit.flops_per_second) for row in measured[place]]
    points += by_devices(devices, base | {"mode": mode}, scaling == "weak", turns, limit) if devices else []
    more = {"model": model, "scaling": scaling, "mode": mode, **turns, "peak": asdict(limit)}
    compare.write(out, points, limit.device, more)
    labels = {
        "batch_size": f"images per step (size {base['image_size']})",
        "image_size": f"height and width in pixels (batch size {base['batch_size']})",
        "devices": f"devices ({'each with' if scaling == 'weak' else 'sharing'} a batch of {base['batch_size']})",
    }
    axes = {label: [p for p in points if p.axis == axis] for axis, label in labels.items()}
    plot = figures.growth({label: some for label, some in axes.items() if some}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(growth)
