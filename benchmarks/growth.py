"""How the training step grows: images a second by batch size, by image side and by number of devices.

    python benchmarks/growth.py
    python benchmarks/growth.py --model vgg16 --who cnnjax --batches 4 8 --sides 64 128 --devices

Batches and sides go with the named contenders side by side. Devices are cnnjax's alone, each number in turn with the
others: on a CPU as many devices are made of its cores, which share them; elsewhere the first so many take part.
Writes benchmarks/results/growth.json and the plot beside it.
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
    """One contender at one place on an axis ("batch", "side" or "devices"); images a second.

    The batch that a point on the axis of devices has is that of all its devices together.
    """

    axis: str
    value: int
    who: str
    batch: int
    side: int
    median: float
    slowest: float
    fastest: float
    flops_per_second: float
    peak_share: float


def point(axis: str, value: int, who: str, work: dict, row: compare.Row, peak: float) -> Point:
    """A compare's row as a point; `peak` in FLOP/s, of all devices at work."""
    batch, rate = work["batch"], flops.count(work) / row.median
    images = (batch / row.median, batch / row.high, batch / row.low)
    return Point(axis, value, who, batch, work["side"], *images, rate, rate / peak)


def on_devices(count: int, batch: int, **options: Any) -> compare.Contender:
    """cnnjax on so many devices, which share a batch; on a CPU they are forced. `options`: see `ours_devices.py`."""
    environment = [("JAX_NUM_CPU_DEVICES", str(count))]
    if count > 1:
        # With fewer threads than devices, the devices' all-reduces wait for each other until they time out.
        environment.append(("NPROC", str(4 * count)))
    options = {"devices": count, "batch": batch} | options
    mode = f", {options['mode']}" if "mode" in options else ""
    name = f"{count} device{'s' * (count > 1)}{mode}"
    return compare.Contender(name, "ours_devices", tuple(options.items()), tuple(environment))


def by_devices(
    devices: tuple[int, ...], base: dict, weak: bool, turns: dict[str, int], limit: peak.Peak
) -> list[Point]:
    """cnnjax on each number of devices, taking turns; `weak`: each device has the whole batch of `base`."""
    works = {n: base | {"batch": base["batch"] * (n if weak else 1)} for n in devices}
    parts = {n: on_devices(n, work["batch"]) for n, work in works.items()}
    common = base | {"name": f"{base['model']} on {', '.join(map(str, devices))} devices"}
    rows = {row.who: row for row in compare.compare(common, list(parts.values()), **turns)}
    points = []
    for n, part in parts.items():
        if part.who in rows:
            # Forced CPU devices are the same cores, counted again.
            many = limit.flops_per_second * (1 if limit.device == "cpu" else n)
            points.append(point("devices", n, compare.OURS.who, works[n], rows[part.who], many))
            print(f"{part.who}, batch {points[-1].batch}: {points[-1].median:.1f} images/s", flush=True)
    return points


def growth(
    *,
    model: Literal["small-cnn", "vgg16"] = "small-cnn",
    who: tuple[str, ...] = (compare.OURS.who, compare.KERAS.who, compare.TORCH.who),
    batches: tuple[int, ...] = (8, 16, 32, 64),
    sides: tuple[int, ...] = (64, 100, 150, 224),
    devices: tuple[int, ...] = (1, 2, 4),
    batch: int = 0,
    side: int = 0,
    scaling: Literal["strong", "weak"] = "strong",
    mode: Literal["mesh", "pmap"] = "mesh",
    rounds: int = 5,
    calls: int = 3,
    out: Path = Path("benchmarks/results/growth.json"),
) -> None:
    """Time training steps along three axes.

    Args:
        model: Whose training step.
        who: Which contenders, by batch and by side.
        batches: Pictures a step; none leaves the axis out.
        sides: Pixels a side; none leaves the axis out.
        devices: Numbers of devices, cnnjax only; none leaves the axis out.
        batch: Pictures a step on the other axes; 0 takes the article's.
        side: Pixels a side on the other axes; 0 takes the article's.
        scaling: On the axis of devices: strong shares the batch out, weak gives each device as much.
        mode: How several devices run together.
        rounds: Turns of each contender.
        calls: Steps a turn.
        out: Where the results go.
    """
    contenders = compare.chosen(who)
    base = (SMALL if model == "small-cnn" else VGG) | {"task": "train"}
    base |= {key: value for key, value in (("batch", batch), ("side", side)) if value}
    for name, values in (("batches", batches), ("sides", sides), ("devices", devices)):
        if any(value < 1 for value in values):
            raise UserError(f"--{name} {min(values)} is too small: use 1 or more")
    if not (batches or sides or devices):
        raise UserError("there is nothing to measure: give --batches, --sides or --devices a value")
    for count in devices:
        if scaling == "strong" and base["batch"] % count:
            raise UserError(f"a batch of {base['batch']} cannot be shared out to {count} devices: give another --batch")
    limit = peak.measure()
    turns = {"rounds": rounds, "calls": calls}
    measured: dict[tuple[int, int], list[compare.Row]] = {}
    points: list[Point] = []
    for axis, values in (("batch", batches), ("side", sides)):
        for value in values:
            work = base | {axis: value, "name": f"{model}, {axis} {value}"}
            work["flops"] = flops.count(work)
            place = (work["batch"], work["side"])  # where the axes cross there is nothing to measure twice
            if place not in measured:
                measured[place] = compare.compare(work, contenders, **turns, peak=limit.flops_per_second)
                print(compare.table(measured[place]), flush=True)
            points += [point(axis, value, row.who, work, row, limit.flops_per_second) for row in measured[place]]
    points += by_devices(devices, base | {"mode": mode}, scaling == "weak", turns, limit) if devices else []
    more = {"model": model, "scaling": scaling, "mode": mode, **turns, "peak": asdict(limit)}
    compare.write(out, points, limit.device, more)
    labels = {
        "batch": f"pictures a step (side {base['side']})",
        "side": f"pixels a side (batch {base['batch']})",
        "devices": f"devices ({'each with' if scaling == 'weak' else 'sharing'} a batch of {base['batch']})",
    }
    axes = {label: [p for p in points if p.axis == axis] for axis, label in labels.items()}
    plot = figures.growth({label: some for label, some in axes.items() if some}, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(growth)
