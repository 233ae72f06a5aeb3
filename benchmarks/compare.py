"""Contenders side by side: each in a process of its own, taking turns in random order, in one table and one plot.

A contender is a file in `contenders/` with `prepare(work: dict) -> Callable[[], object]`: the callable does the work
once and returns when it is finished. Processes keep the libraries' thread pools and flags apart; only one works at a
time. The first call of each, which compiles, is timed separately.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnnjax import files
from cnnjax.errors import UserError

# The contenders are alive at the same time: none may take all memory of an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# `runtime.configure`, which the scripts call, adds a flag to XLA_FLAGS; the contenders must not inherit it.
XLA_FLAGS = os.environ.get("XLA_FLAGS", "")

WORKER = Path(__file__).with_name("contender.py")
PACKAGES = (
    "cnnjax", "jax", "flax", "torch", "torchvision", "keras", "tensorflow-cpu", "tensorflow", "tf-keras-vis", "grain",
    "pillow", "libtpu", "jax-cuda12-plugin",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who takes part: a name for the table, the file in `contenders/`, options for it, and environment variables."""

    who: str
    file: str
    options: tuple[tuple[str, Any], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


OURS = Contender("cnnjax", "ours")
FLAX = Contender("plain Flax", "plain_flax")
KERAS = Contender("Keras (TensorFlow)", "keras_tensorflow", (("jit_compile", False),))
KERAS_XLA = Contender("Keras (TensorFlow, XLA)", "keras_tensorflow", (("jit_compile", True),))
TORCH = Contender("PyTorch eager", "pytorch", (("compile", False),))
TORCH_COMPILED = Contender("PyTorch compiled", "pytorch", (("compile", True),))
EVERYONE = {c.who: c for c in (OURS, FLAX, KERAS, KERAS_XLA, TORCH, TORCH_COMPILED)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One contender at one workload.

    median, low, high, first: seconds per call; `first` includes the start of the process and compilation. ratio: the
    median over this package's; above 1 this package is faster. peak_share: of the device's FLOP/s, see `peak.py`.
    None where a field does not apply.
    """

    workload: str
    who: str
    median: float
    low: float
    high: float
    first: float
    ratio: float | None
    images_per_second: float | None
    flops_per_second: float | None = None
    peak_share: float | None = None


class Process:
    """A contender at work. When the constructor returns it is prepared and was called once; then call `seconds`.

    `first`: seconds from the start of its interpreter to the end of the first call.
    """

    def __init__(self, contender: Contender, work: dict[str, Any]) -> None:
        self.who = contender.who
        command = [sys.executable, str(WORKER), contender.file, json.dumps(work | dict(contender.options))]
        environment = os.environ | {"XLA_FLAGS": XLA_FLAGS} | dict(contender.environment)
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._answer()
        self.first = time.perf_counter() - begun

    def seconds(self, calls: int) -> list[float]:
        """The seconds that each of `calls` calls takes."""
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        _, said = self.process.communicate()
        reason = (said.strip().splitlines() or ["it said nothing"])[-1]
        kind, _, sentence = reason.partition(": ")
        if kind.endswith(".UserError"):
            raise UserError(f"{self.who} cannot take part: {sentence}")
        raise UserError(f"{self.who} cannot take part ({reason}): install its package with pip install -e '.[peers]'")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait()


def compare(
    work: dict[str, Any],
    contenders: Sequence[Contender],
    *,
    rounds: int = 7,
    calls: int = 2,
    seed: int = 0,
    peak: float | None = None,
) -> list[Row]:
    """Time every contender in `rounds` turns of `calls` calls each, in an order drawn anew for each round.

    work: has a "name"; for images per second also the "images" of a call (by default its "batch_size"), and for FLOP/s
    the "flops" of a call. peak: the device's, in FLOP/s. A contender that cannot take part is named and left out;
    raises UserError if it is this package.
    """
    order = random.Random(seed)
    running: list[Process] = []
    try:
        for contender in tqdm(contenders, desc=f"{work['name']}: preparing", unit=" contender", leave=False):
            try:
                running.append(Process(contender, work))
            except UserError as error:
                if contender.who == OURS.who:
                    raise
                tqdm.write(str(error))
        seconds: dict[str, list[float]] = {process.who: [] for process in running}
        with tqdm(total=rounds * len(running), desc=work["name"], unit=" turns", leave=False) as bar:
            for _ in range(rounds):
                for process in order.sample(running, len(running)):
                    seconds[process.who] += process.seconds(calls)
                    bar.update()
        first = {process.who: process.first for process in running}
    finally:
        for process in running:
            process.close()
    return rows(work, seconds, first, peak)


def starts(work: dict[str, Any], contenders: Sequence[Contender], *, rounds: int = 5, seed: int = 0) -> list[Row]:
    """Time `rounds` processes of each contender from their start to the end of the first call, in random order."""
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {contender.who: [] for contender in contenders}
    with tqdm(total=rounds * len(contenders), desc=work["name"], unit=" starts", leave=False) as bar:
        for _ in range(rounds):
            for contender in order.sample(contenders, len(contenders)):
                process = Process(contender, work)
                process.close()
                seconds[contender.who].append(process.first)
                bar.update()
    return rows(work, seconds, {who: values[0] for who, values in seconds.items()})


def rows(
    work: dict[str, Any], seconds: dict[str, list[float]], first: dict[str, float], peak: float | None = None
) -> list[Row]:
    """The rows of the table from every contender's seconds per call. `peak`: the device's FLOP/s."""
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    ours = medians.get(OURS.who)
    images, flops = work.get("images", work.get("batch_size")), work.get("flops")
    return [
        Row(
            workload=work["name"],
            who=who,
            median=medians[who],
            low=min(values),
            high=max(values),
            first=first[who],
            ratio=medians[who] / ours if ours else None,
            images_per_second=images / medians[who] if images else None,
            flops_per_second=flops / medians[who] if flops else None,
            peak_share=flops / medians[who] / peak if flops and peak else None,
        )
        for who, values in seconds.items()
    ]


def table(found: Sequence[Row]) -> str:
    """Aligned columns for people."""
    head = ("workload", "who", "median", "fastest", "slowest", "images/s", "GFLOP/s", "of peak", "first call",
            "cnnjax is faster by")  # fmt: skip
    lines = [
        (
            row.workload,
            row.who,
            f"{row.median:.3f} s",
            f"{row.low:.3f}",
            f"{row.high:.3f}",
            f"{row.images_per_second:.1f}" if row.images_per_second else "",
            f"{row.flops_per_second / 1e9:.1f}" if row.flops_per_second else "",
            f"{row.peak_share:.0%}" if row.peak_share else "",
            f"{row.first:.1f} s",
            f"{row.ratio:.2f}×" if row.ratio else "",
        )
        for row in found
    ]
    return aligned(head, lines)


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first two aligned to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{'<' if i < 2 else '>'}{widths[i]}}" for i, cell in enumerate(line)).rstrip()
        for line in (head, *lines)
    )


def write(path: Path, found: Sequence[Any], device: str, more: dict[str, Any] | None = None) -> None:
    """Write the rows (dataclasses) with device, versions and date as JSON. Raises UserError if it cannot be written."""
    about = {
        "device": device,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "rows": [dataclasses.asdict(row) for row in found],
    }
    text = json.dumps(about | (more or {}), indent=1) + "\n"
    files.atomic_write(path, lambda temporary: temporary.write_text(text))


def versions() -> dict[str, str]:
    """The versions of the packages that take part and are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def chosen(names: Sequence[str], among: Mapping[str, Contender] = EVERYONE) -> list[Contender]:
    """Contenders by name. Raises UserError for an unknown one."""
    for name in names:
        if name not in among:
            raise UserError(f"there is no contender {name!r}: choose among {', '.join(among)}")
    return [among[name] for name in names]
