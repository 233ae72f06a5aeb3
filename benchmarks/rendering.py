"""How fast the embedded data set is drawn: seconds to the first picture, cold, and images per second after that.

    python benchmarks/rendering.py                 # every class at 150², into benchmarks/results/rendering.json
    python benchmarks/rendering.py --classes cat dog --image_size 64

The compilation cache is off, so "first" is tracing, compiling and drawing one batch, as on a new machine.
"""

import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # set before cnnjax chooses one

import jax

from cnnjax import procedural
from cnnjax.cli import command_line


def rendering(
    *,
    classes: tuple[str, ...] = procedural.CLASSES,
    image_size: int = 150,
    batch: int = 200,
    rounds: int = 5,
    out: Path = Path("benchmarks/results/rendering.json"),
) -> None:
    """Time the renderer.

    Args:
        classes: Which of the fourteen.
        image_size: Height and width in pixels.
        batch: Images per call.
        rounds: Timed calls of each class, the classes taking turns.
        out: The file for the results.
    """
    keys = jax.random.split(jax.random.key(0), batch)
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
            "pictures_per_second": batch / statistics.median(seconds[name]),
            "slowest": batch / max(seconds[name]),
            "fastest": batch / min(seconds[name]),
        }
        for name in classes
    ]
    print(f"{'class':12} {'first, s':>9} {'pictures/s':>11} {'slowest':>8} {'fastest':>8}")
    for row in rows:
        print(
            f"{row['class']:12} {row['first_seconds']:9.1f} {row['pictures_per_second']:11.0f} "
            f"{row['slowest']:8.0f} {row['fastest']:8.0f}"
        )
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"image_size": image_size, "device": device, "jax": jax.__version__, "rows": rows}, indent=1) + "\n")
    print(f"{time.perf_counter() - start:.0f} s; wrote {out}")


if __name__ == "__main__":
    command_line.main(rendering)
