"""What a user with an accelerator should report: everything in 15 minutes, one JSON file and one table.

    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --only train --seconds 20
    python benchmarks/accelerator.py --tiny          # the same in small, on any machine, within a minute

Training, forward passes and the input's gradient of the article's networks and of ResNet-50, training on 1, 2, 4, …
devices, and filters drawn by lucid's recipe. Each is measured in a process of its own, so that the memory is its own; a
batch that does not fit into the memory is halved. The share of the peak refers to the maker's figure (`peak.py`) where
it is known, else to a measured matmul. Writes benchmarks/results/accelerator.json, and the table as Markdown beside it,
to be put into an issue.
"""

import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import compare
import flops
import jax
import jax.numpy as jnp
import numpy as np
import peak
import workloads
from tqdm import tqdm

from cnnjax import configure, files, formats, models, visualize
from cnnjax.cli import command_line
from cnnjax.errors import UserError
from cnnjax.train import strategy

Task = Literal["train", "forward", "input-gradient", "ascent"]
LAYER = "block5_conv3"


@dataclasses.dataclass(frozen=True)
class Work:
    """What is measured. batch_size: images of a step on each device. devices: 0 is all that there are."""

    task: Task
    model: str
    image_size: int
    batch_size: int
    dtype: str = "float32"
    devices: int = 1
    layer: str = LAYER
    steps: int = 1
    """Training steps of a call on an accelerator, or steps of an ascent."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured workload.

    batch_size: on each device, after halving. images_per_second: the median, the slowest and the fastest call; of an
    ascent a step of an image counts as one. flops_per_second and peak_share: of each device, None where the FLOPs are
    not counted. memory: peak bytes of the first device, None where it does not tell. first: seconds of the first call,
    with compilation. error: why there is no measurement, else empty.
    """

    task: str
    model: str
    dtype: str
    devices: int
    image_size: int
    batch_size: int
    images_per_second: float = 0.0
    slowest: float = 0.0
    fastest: float = 0.0
    flops_per_second: float | None = None
    peak_share: float | None = None
    memory: int | None = None
    first: float = 0.0
    device: str = ""
    error: str = ""


FULL = (
    Work("train", "small-cnn", 150, 256, steps=20),
    Work("forward", "small-cnn", 150, 256),
    Work("train", "vgg16", 224, 128, "bfloat16", steps=5),
    Work("train", "vgg16", 224, 64, steps=5),
    Work("forward", "vgg16", 224, 128, "bfloat16"),
    Work("input-gradient", "vgg16", 224, 32),
    Work("train", "resnet50", 224, 256, "bfloat16", steps=5),
    Work("train", "resnet50", 224, 128, steps=5),
    Work("ascent", "vgg16", 128, 16, steps=96),
)
SCALED = Work("train", "resnet50", 224, 128, "bfloat16", steps=5)
"""Measured on 2, 4, … devices besides."""
TINY = (
    Work("train", "small-cnn", 16, 4),
    Work("forward", "small-cnn", 16, 4),
    Work("input-gradient", "vgg16", 32, 1, layer="block2_conv1"),
    Work("ascent", "vgg16", 32, 1, layer="block1_conv2", steps=2),
)
TINY_SCALED = Work("train", "small-cnn", 16, 2)


def prepare(work: Work) -> tuple[Callable[[], object], int, float | None]:
    """(a call that does the work once, the images that it counts for, its FLOPs on each device)."""
    described = {"model": work.model, "image_size": work.image_size, "batch_size": work.batch_size}
    if work.task == "ascent":
        network = formats.load_bundled("vgg16", include_top=False)
        objective = visualize.channel(work.layer, range(work.batch_size))
        options = {"recipe": "lucid", "steps": work.steps, "image_size": work.image_size, "batch_size": work.batch_size}
        count = work.batch_size * work.steps
        operations = flops.count(described | {"task": "input-gradient", "layer": work.layer, "batch_size": count})
        return lambda: visualize.render(network, objective, **options), count, operations
    if work.task == "train":
        return _training(work, described)
    size = work.image_size
    noise = np.random.default_rng(0).random((work.batch_size, size, size, 3), np.float32)
    images = jnp.asarray(noise).astype(work.dtype)
    network = workloads.create(work.model, size)
    graphdef, *arrays = models.split(network)

    def goal(images: jax.Array) -> jax.Array:
        return models.apply(graphdef, *arrays, images).activations[work.layer].astype(jnp.float32).mean()

    forward = jax.jit(lambda images: models.apply(graphdef, *arrays, images).logits)
    call = forward if work.task == "forward" else jax.jit(jax.grad(goal))
    operations = flops.count(described | {"task": work.task, "layer": work.layer})
    return lambda: call(images).block_until_ready(), work.batch_size, operations


def _training(work: Work, described: dict[str, Any]) -> tuple[Callable[[], object], int, float]:
    devices = jax.devices()[: work.devices or None]
    steps = work.steps if devices[0].platform != "cpu" else 1  # as `train.fit` does
    together = {**described, "batch_size": work.batch_size * len(devices)}
    where = strategy.make_strategy("auto", together["batch_size"], devices)
    network = workloads.create(work.model, work.image_size)
    call = workloads.training(network, together, where, steps, precision=work.dtype)
    return call, steps * together["batch_size"], steps * flops.count(described | {"task": "train"})


def measure(work: Work, seconds: float) -> Row:
    """The work in this process for so many seconds, with a smaller batch if it does not fit into the memory."""
    devices = jax.devices()[: work.devices or None]
    about = dataclasses.asdict(work)
    known = {name: about[name] for name in ("task", "model", "dtype", "image_size")}
    known |= {"devices": len(devices), "device": devices[0].device_kind}
    batch_size = work.batch_size
    while True:
        try:
            timed = _time(dataclasses.replace(work, batch_size=batch_size), seconds)
            break
        except Exception as error:  # of a class that jax does not export
            if not _is_out_of_memory(error):
                return Row(**known, batch_size=batch_size, error=f"{type(error).__name__}: {error}".splitlines()[0])
        if batch_size == 1:
            return Row(**known, batch_size=1, error="one image does not fit into the memory")
        batch_size //= 2
    used = (devices[0].memory_stats() or {}).get("peak_bytes_in_use")
    return Row(**known, batch_size=batch_size, memory=used, **timed)


def _is_out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def _time(work: Work, seconds: float) -> dict[str, float | None]:
    start = time.perf_counter()
    call, images, operations = prepare(work)
    call()
    first = time.perf_counter() - start
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return {
        "images_per_second": images / median,
        "slowest": images / max(times),
        "fastest": images / min(times),
        "flops_per_second": None if operations is None else operations / median,
        "first": first,
    }


def with_share(row: Row, limits: dict[str, peak.Peak]) -> Row:
    """The row with its share of the device's peak for its type."""
    if row.flops_per_second is None or row.dtype not in limits:
        return row
    return dataclasses.replace(row, peak_share=row.flops_per_second / limits[row.dtype].flops_per_second)


def markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    head = ("task", "model", "type", "devices", "size", "batch", "images/s", "slowest–fastest", "TFLOP/s", "of peak",
            "memory GiB", "first call s")  # fmt: skip
    lines = [head, ("---",) * len(head)]
    for row in rows:
        fixed = (row.task, row.model, row.dtype, row.devices, f"{row.image_size}²", row.batch_size)
        if row.error:
            lines.append((*map(str, fixed), row.error, *[""] * 5))
            continue
        rate = None if row.flops_per_second is None else row.flops_per_second / 1e12
        lines.append((
            *map(str, fixed), f"{row.images_per_second:.4g}", f"{row.slowest:.4g}–{row.fastest:.4g}",
            "" if rate is None else f"{rate:.3g}", "" if row.peak_share is None else f"{row.peak_share:.0%}",
            "" if row.memory is None else f"{row.memory / 2**30:.2f}", f"{row.first:.1f}",
        ))  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _count_devices() -> int:
    configure()
    return jax.device_count()


def _measure_alone(work: Work, seconds: float) -> Row:
    configure()
    return measure(work, seconds)


def _elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result from a new process, which has the devices for itself."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def accelerator(
    *,
    tiny: bool = False,
    only: tuple[Task, ...] = (),
    seconds: float = 10.0,
    minutes: float = 15.0,
    out: Path = Path("benchmarks/results/accelerator.json"),
) -> None:
    """Measure what a user with an accelerator should report.

    Args:
        tiny: Small networks and images, in this process: to see that it works.
        only: Only these tasks; by default all.
        seconds: How long each workload is timed after its compilation.
        minutes: When they are over, no further workload is begun; those that are left out are named.
        out: The file for the results; the table goes beside it.
    """
    if seconds <= 0 or minutes <= 0:
        raise UserError(f"--seconds {seconds:g} --minutes {minutes:g}: both must be above 0")
    start = time.monotonic()
    run: Callable[..., Any] = (lambda function, *arguments: function(*arguments)) if tiny else _elsewhere
    number, scaled = run(_count_devices), TINY_SCALED if tiny else SCALED
    several = [2**n for n in range(1, number.bit_length()) if 2**n <= number]
    all_work = [*(TINY if tiny else FULL), *(dataclasses.replace(scaled, devices=n) for n in several)]
    chosen = [work for work in all_work if not only or work.task in only]
    kinds = sorted({work.dtype for work in chosen})
    limits = {kind: peak.matmuls(kind) if tiny else peak.measure(kind) for kind in kinds}
    rows, left = [], []
    for work in tqdm(chosen, desc="workloads", dynamic_ncols=True):
        if time.monotonic() - start > 60 * minutes:
            left.append(f"{work.task} of {work.model} on {work.devices}")
            continue
        rows.append(with_share(run(_measure_alone, work, 0.01 if tiny else seconds), limits))
    table = markdown(rows)
    print(table)
    if left:
        print(f"left out after {minutes:g} minutes: {', '.join(left)}; give more --minutes")
    about = {"tiny": tiny, "seconds": seconds, "left_out": left}
    about["peaks"] = [dataclasses.asdict(limit) for limit in limits.values()]
    device = rows[0].device if rows else ""
    compare.write(out, rows, device, about)
    beside = out.with_suffix(".md")
    versions = ", ".join(f"{name} {version}" for name, version in compare.versions().items())
    heading = f"{number} × {device}; {versions}\n\n"
    files.atomic_write(beside, lambda temporary: temporary.write_text(heading + table))
    print(f"wrote {out} and {beside}")


if __name__ == "__main__":
    command_line.main(accelerator)
