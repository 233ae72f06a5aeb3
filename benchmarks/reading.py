"""Time and memory of reading VGG16, 553 MB, compared with the library that the format belongs to.

    python benchmarks/reading.py

Files with random weights are made first, one at a time. Each reading has a process of its own, in alternating turns;
the files are in the system's cache. Needs the extra `peers`. Writes benchmarks/results/reading.json.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import compare
import jax
import reading_once
from tqdm import tqdm

from cnnjax.cli import command_line
from cnnjax.errors import unknown

FORMATS = {
    "keras-h5": "vgg16.h5",
    "keras-weights-h5": "vgg16.weights.h5",
    "keras-archive": "vgg16.keras",
    "torchvision-pth": "vgg16-old.pth",
    "torchvision-zip": "vgg16.pth",
    "torchvision-safetensors": "vgg16.safetensors",
    "cnnjax": "weights.safetensors",
}
"""The file in each format; there is no other library that reads cnnjax's."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reader of one format."""

    format: str
    who: str
    file_bytes: int
    seconds: float
    """Median."""
    spread: tuple[float, float]
    """The shortest and the longest."""
    peak_bytes: int
    """Median of the peak memory, less what the process had before."""
    peak_ratio: float
    """`peak_bytes` relative to the file's."""
    time_ratio: float
    """cnnjax's median of `seconds` relative to this reader's."""
    turns: list[float]


def once(command: str, **flags: str) -> dict[str, float]:
    """The answer of a process of reading_once.py."""
    script = Path(__file__).with_name("reading_once.py")
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    done = subprocess.run([sys.executable, str(script), command, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} {flags}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) if command == "read" else {}


def measure(format: str, rounds: int, folder: Path, bar: tqdm) -> list[Row]:
    """Both readers of one format, in alternating turns."""
    path = folder / FORMATS[format]
    once("write", format=format, path=str(path))
    size = path.stat().st_size
    who = ["cnnjax"]
    if format != "cnnjax":
        who += ["Keras"] if format.startswith("keras") else ["PyTorch", reading_once.ALL]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in who}
    for turn in range(rounds):
        for name in who if turn % 2 else who[::-1]:
            bar.set_description(f"{format}, {name}")
            found[name].append(once("read", who=name, format=format, path=str(path)))
            bar.update()
    path.unlink()
    medians = {name: statistics.median(f["seconds"] for f in turns) for name, turns in found.items()}
    rows = []
    for name, turns in found.items():
        seconds = [f["seconds"] for f in turns]
        peak = int(statistics.median(f["bytes"] for f in turns))
        rows.append(
            Row(
                format=format,
                who=name,
                file_bytes=size,
                seconds=medians[name],
                spread=(min(seconds), max(seconds)),
                peak_bytes=peak,
                peak_ratio=peak / size,
                time_ratio=medians["cnnjax"] / medians[name],
                turns=seconds,
            )
        )
    return rows


def reading(
    *,
    formats: tuple[str, ...] = tuple(FORMATS),
    rounds: int = 5,
    folder: Path | None = None,
    out: Path = Path("benchmarks/results/reading.json"),
) -> None:
    """Time reading and measure its memory.

    Args:
        formats: Which.
        rounds: Turns of each reader.
        folder: Where the files are made, 600 MB at a time; by default the system's folder for such files.
        out: The file for the results.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as made, tqdm(unit=" readings") as bar:
        for name in formats:
            rows += measure(name, rounds, Path(made), bar)
    head = ("format", "reader", "seconds", "shortest to longest", "cnnjax takes", "peak over the file's size")
    lines = [
        (r.format, r.who, f"{r.seconds:.2f}", "{:.2f} to {:.2f}".format(*r.spread), f"{r.time_ratio:.2f}×",
         f"{r.peak_ratio:.2f}×")
        for r in rows
    ]  # fmt: skip
    print(compare.aligned(head, lines))
    compare.write(out, rows, jax.devices()[0].device_kind, {"rounds": rounds})
    print(f"wrote {out}")


if __name__ == "__main__":
    command_line.main(reading)
