"""Time from the start of Python to the end of the first training step of the small network, cold and warm.

    python benchmarks/compile_time.py

Cold: the compilation cache is empty, as on a new machine. Warm: it holds what the cold start has compiled. Needs the
extra `peers`. Writes benchmarks/results/compile_time.json and a plot next to it.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import compare
import jax

from cnnjax import figures
from cnnjax.cli import command_line

WORK = {"model": "small-cnn", "batch_size": 32, "image_size": 150, "task": "train"}
WHO = tuple(who for who in compare.EVERYONE if who != compare.TORCH_COMPILED.who)


def compile_time(
    *, who: tuple[str, ...] = WHO, rounds: int = 5, out: Path = Path("benchmarks/results/compile_time.json")
) -> None:
    """Time cold and warm starts.

    Args:
        who: The contenders; ratios refer to cnnjax.
        rounds: Warm starts of each contender.
        out: The file for the results.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = (("CNNJAX_CACHE", folder), ("TORCHINDUCTOR_CACHE_DIR", folder))
        contenders = [replace(c, environment=c.environment + caches) for c in compare.chosen(who)]
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        found["cold start"] = compare.starts(WORK | {"name": "cold start"}, contenders, rounds=1)
        found["warm start"] = compare.starts(WORK | {"name": "warm start"}, contenders, rounds=rounds)
    rows = [row for some in found.values() for row in some]
    print(compare.table(rows))
    compare.write(out, rows, jax.devices()[0].device_kind, {"rounds": rounds})
    plot = figures.compare(found, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(compile_time)
