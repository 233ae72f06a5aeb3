"""The speed of rendering the embedded data set: seconds to the first batch, cold, and images per second after that.

    python benchmarks/rendering.py                 # every class at 150², into benchmarks/results/rendering.json
    python benchmarks/rendering.py --classes cat dog --image-size 64

The compilation cache is off, so "first" includes tracing and compilation, as on a new machine.
"""

import os
import platform
import statistics
import time
from pathlib import Path

os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # set before `runtime.configure` chooses one

import jax

from cnnjax import files, procedural
from cnnjax.cli import command_line


def rendering(
    *,
    classes: tuple[str, ...] = procedural.CLASSES,
    image_size: int = 150,
    batch_size: int = 200,
    rounds: int = 5,
    out: Path = Path("benchmarks/results/rendering.json"),
) -> None:
    """Time the renderer.

    Args:
        classes: Any of the fourteen classes.
        image_size: Height and width in pixels.
        batch_size: Images per call.
        rounds: Timed calls of each class, the classes taking turns.
        out: The file for the results.
    """
    keys = jax.random.split(jax.random.key(0), batch_size)
    start = time.perf_counter()
    first, seconds = {}, {name: [] for name in classes}
    for name in classes:
        begun = time.perf_counter()
        jax.block_until_ready(procedural.render(name, keys, image_size))
        first[name] = time.perf_counter() - begun
    for _ in range(rounds):
        for name in classes:
            begun = time.perf_counter()
            jax.block_until_ready(procedural.render(name, keys, image_size))
            seconds[name].append(time.perf_counter() - begun)
    rows = [
        {
            "class": name,
            "first_seconds": first[name],
            "images_per_second": batch_size / statistics.median(seconds[name]),
            "slowest": batch_size / max(seconds[name]),
            "fastest": batch_size / min(seconds[name]),
        }
        for name in classes
    ]
    print(f"{'class':12} {'first, s':>9} {'images/s':>11} {'slowest':>8} {'fastest':>8}")
    for row in rows:
        print(
            f"{row['class']:12} {row['first_seconds']:9.1f} {row['images_per_second']:11.0f} "
            f"{row['slowest']:8.0f} {row['fastest']:8.0f}"
        )
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    files.write_json(out, {"image_size": image_size, "device": device, "jax": jax.__version__, "rows": rows})
    print(f"{time.perf_counter() - start:.0f} s; wrote {out}")


if __name__ == "__main__":
    command_line.main(rendering)
