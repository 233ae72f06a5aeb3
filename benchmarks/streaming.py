"""Images per second and core from JPEG files to uint8 batches, decoded anew every time; and the memory that takes.

    python benchmarks/streaming.py

All read the same files in an order drawn anew for every pass, decode them, resize them (bilinear, antialiased) and give
batches of uint8. "small" are tiny files, where what happens around decoding counts, "photographs" such as Kaggle's cats
and dogs. Then the loader's peak memory with few and with many files: only its index may grow.
Needs the extra `peers`. Writes benchmarks/results/streaming.json and a plot next to it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import compare
import jax
import jpegs

from cnnjax import figures, runtime
from cnnjax.cli import command_line
from cnnjax.errors import UserError

PEERS = (
    compare.Contender(compare.OURS.who, "ours_stream", (("workers", 0),)),
    compare.Contender("cnnjax, processes", "ours_stream"),
    compare.Contender("tf.data", "tf_data_stream"),
    compare.Contender("PyTorch DataLoader", "torch_stream"),
)
WHO = {contender.who: contender for contender in PEERS}
WORKLOADS = {"small": 64, "photographs": 150}  # and the pixels a side after resizing
DEMAND = 1.3  # times the memory for few files, is what many may take


def peak_memory(folder: Path) -> int:
    """Bytes that a process of its own takes at its peak when it indexes and streams the folder. Raises UserError."""
    command = [sys.executable, str(Path(__file__).with_name("loader_memory.py")), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the loader's memory cannot be measured: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["bytes"]


def streaming(
    *,
    who: tuple[str, ...] = tuple(WHO),
    workloads: tuple[str, ...] = tuple(WORKLOADS),
    small: int = 10000,
    photographs: int = 2000,
    few: int = 5000,
    many: int = 50000,
    batch: int = 32,
    cores: int = 0,
    rounds: int = 5,
    out: Path = Path("benchmarks/results/streaming.json"),
) -> None:
    """Time streams side by side, then measure the loader's memory.

    Args:
        who: Which streams; cnnjax, with threads, is the one that ratios refer to.
        workloads: Which files: small, photographs.
        small: Tiny files that a turn decodes.
        photographs: Large files that a turn decodes.
        few: Tiny files, for the memory they take.
        many: Tiny files, for the memory they take.
        batch: Images per batch.
        cores: Use only so many; 0 uses all.
        rounds: Turns of each stream.
        out: The file for the results.
    """
    contenders = compare.chosen(who, WHO)
    for name in workloads:
        if name not in WORKLOADS:
            raise UserError(f"there is no workload {name!r}: choose among {', '.join(WORKLOADS)}")
    sizes = {"small": small, "photographs": photographs}
    for name in workloads:
        if sizes[name] < max(batch, 4):
            raise UserError(f"--{name} {sizes[name]} is too few for batches of {batch}: give {max(batch, 4)} or more")
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # whoever is started inherits it
    cores = runtime.cores()
    found: dict[str, list[compare.Row]] = {}
    for name in workloads:
        per_class = sizes[name] // 2
        folder = jpegs.tiny(per_class) if name == "small" else jpegs.files(per_class)
        steps = 2 * per_class // batch
        work = {"name": f"{steps * batch} {name}", "folder": str(folder), "image_size": WORKLOADS[name], "batch_size": batch}
        work |= {"images": steps * batch, "workers": cores}
        found[work["name"]] = compare.compare(work, contenders, rounds=rounds, calls=1)
        print(compare.table(found[work["name"]]), flush=True)
    rows = [row for some in found.values() for row in some]
    per_core = [row.images_per_second / cores for row in rows]
    for row, rate in zip(rows, per_core, strict=True):
        print(f"{row.workload}, {row.who}: {rate:.0f} images/s a core")
    memory = {str(count): peak_memory(jpegs.tiny(count // 2)) for count in (few, many)}
    growth = memory[str(many)] / memory[str(few)]
    print(
        f"peak memory: {memory[str(few)] / 2**20:.0f} MiB with {few} files, {memory[str(many)] / 2**20:.0f} with {many}"
    )
    print(f"{growth:.2f} times as much for {many / few:.0f} times the files (at most {DEMAND} is asked for)")
    more = {"rounds": rounds, "cores_used": cores, "images_per_second_per_core": per_core}
    more |= {"peak_memory": memory, "growth": growth, "demand": DEMAND}
    compare.write(out, rows, jax.devices()[0].device_kind, more)
    plot = figures.compare(found, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(streaming)
