"""Images per second per core from JPEG files to uint8 batches, decoded for every epoch; and the memory this takes.

    python benchmarks/streaming.py

All contenders read the same files in a random order, decode them, resize them (bilinear, antialiased) and return
batches of uint8. "small" are tiny files, which show the overhead around decoding; "photographs" are of the size of
Kaggle's cats and dogs. Then the peak memory of the loader with few and with many files: only its index may grow.
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
from cnnjax.errors import UserError, unknown

PEERS = (
    compare.Contender(compare.OURS.who, "ours_stream", (("workers", 0),)),
    compare.Contender("cnnjax, processes", "ours_stream"),
    compare.Contender("tf.data", "tf_data_stream"),
    compare.Contender("PyTorch DataLoader", "torch_stream"),
)
WHO = {contender.who: contender for contender in PEERS}
WORKLOADS = {"small": 64, "photographs": 150}  # name -> image size in pixels after resizing
DEMAND = 1.3  # the largest ratio of the memory for many files to that for few


def peak_memory(folder: Path) -> int:
    """Peak memory in bytes of a process that indexes and streams the folder. Raises UserError if it fails."""
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
    batch_size: int = 32,
    cores: int = 0,
    rounds: int = 5,
    out: Path = Path("benchmarks/results/streaming.json"),
) -> None:
    """Time streams side by side, then measure the loader's memory.

    Args:
        who: The streams; ratios refer to cnnjax, with threads.
        workloads: Any of small, photographs.
        small: Number of tiny files that are decoded per turn.
        photographs: Number of large files that are decoded per turn.
        few: Number of tiny files in the first measurement of memory.
        many: Number of tiny files in the second measurement of memory.
        batch_size: Images per batch.
        cores: The number of CPU cores to use; 0 uses all.
        rounds: Turns of each stream.
        out: The file for the results.
    """
    contenders = compare.chosen(who, WHO)
    for name in workloads:
        if name not in WORKLOADS:
            raise unknown("workload", name, WORKLOADS)
    sizes = {"small": small, "photographs": photographs}
    for name in workloads:
        if sizes[name] < (least := max(batch_size, 4)):
            raise UserError(f"--{name} {sizes[name]} is too few for batches of {batch_size}: give {least} or more")
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # child processes inherit this
    cores = runtime.cores()
    found: dict[str, list[compare.Row]] = {}
    for name in workloads:
        per_class = sizes[name] // 2
        folder = jpegs.tiny(per_class) if name == "small" else jpegs.files(per_class)
        images = 2 * per_class // batch_size * batch_size
        work = {"name": f"{images} {name}", "folder": str(folder), "image_size": WORKLOADS[name]}
        work |= {"batch_size": batch_size, "images": images, "workers": cores}
        found[work["name"]] = compare.compare(work, contenders, rounds=rounds, calls=1)
        print(compare.table(found[work["name"]]), flush=True)
    rows = [row for some in found.values() for row in some]
    per_core = [row.images_per_second / cores for row in rows]
    for row, rate in zip(rows, per_core, strict=True):
        print(f"{row.workload}, {row.who}: {rate:.0f} images/s per core")
    memory = {str(count): peak_memory(jpegs.tiny(count // 2)) for count in (few, many)}
    growth = memory[str(many)] / memory[str(few)]
    print(
        f"peak memory: {memory[str(few)] / 2**20:.0f} MiB with {few} files, {memory[str(many)] / 2**20:.0f} with {many}"
    )
    print(f"{growth:.2f} times as much for {many / few:.0f} times the files (at most {DEMAND} is required)")
    more = {"rounds": rounds, "cores_used": cores, "images_per_second_per_core": per_core}
    more |= {"peak_memory": memory, "growth": growth, "demand": DEMAND}
    compare.write(out, rows, jax.devices()[0].device_kind, more)
    plot = figures.compare(found, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


if __name__ == "__main__":
    command_line.main(streaming)
