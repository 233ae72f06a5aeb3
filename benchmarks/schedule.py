"""How a program that is compiled for GPUs lays out its convolutions, and what runs while gradients are summed.

    python benchmarks/schedule.py --machines "8 × A100" --programs "vgg16 ascent"
    python benchmarks/schedule.py --programs "vgg16 mesh" --options xla_gpu_all_reduce_combine_threshold_bytes=16777216

No GPU is needed, see `ahead_of_time.py`. `--options` are compiler options, which are tried beside the program without
them: each setting is thus judged by what it changes in the program. The columns, for each chip:

NHWC, NCHW    cuDNN's convolutions with the channels last, and with the channels first
transposed    MB that transposes and copies of at least 1 MB write, of activations and of kernels
largest       MB of the largest of them
all-reduces   operations that sum over the chips
hidden        share of their MB for which a convolution is scheduled between their start and their end
"""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ahead_of_time
import compare
from compiled import PROGRAMS, size
from machines import MACHINES, missing

from cnnjax.cli import command_line
from cnnjax.errors import UserError, unknown

SMALL = 2**20
"""Bytes below which a transpose is not counted."""


@dataclass(frozen=True)
class Schedule:
    """What the text of a compiled program says. Bytes; `hidden` of the `reduced` ones."""

    channels_last: int
    channels_first: int
    transposed: int
    largest: int
    all_reduces: int
    reduced: int
    hidden: int


def read(hlo: str) -> Schedule:
    """The layouts, transposes and sums of a compiled and scheduled program."""
    convolutions = [line for line in hlo.splitlines() if 'custom_call_target="__cudnn$conv' in line]
    layouts = re.findall(r"dim_labels=\w+->(\w+)", "\n".join(convolutions))
    moved = [size(shape) for shape in re.findall(r"= (\S+) (?:transpose|copy)\(", hlo)]
    moved = [number for number in moved if number >= SMALL]
    sums = [found for computation in re.split(r"\n(?=%|ENTRY)", hlo) for found in _sums(computation)]
    return Schedule(
        channels_last=sum(layout.endswith("f") for layout in layouts),
        channels_first=sum(not layout.endswith("f") for layout in layouts),
        transposed=sum(moved),
        largest=max(moved, default=0),
        all_reduces=len(sums),
        reduced=sum(number for number, _ in sums),
        hidden=sum(number for number, hidden in sums if hidden),
    )


def _sums(computation: str) -> list[tuple[int, bool]]:
    """The bytes of each all-reduce, and whether a convolution is scheduled between its start and its end."""
    lines = computation.splitlines()
    found, begun = [], {}
    for number, line in enumerate(lines):
        if start := re.match(r"\s+(?:ROOT )?%(\S+) = (.*?) all-reduce-start\(", line):
            begun[start[1]] = number, size(start[2])
        elif done := re.search(r" all-reduce-done\(%([^)\s]+)\)", line):
            first, number_of_bytes = begun[done[1]]
            found.append((number_of_bytes, any("__cudnn$conv" in between for between in lines[first:number])))
        elif whole := re.match(r"\s+(?:ROOT )?%\S+ = (.*?) all-reduce\(", line):
            found.append((size(whole[1]), False))
    return found


def parse(options: str) -> dict[str, bool | int | str]:
    """Compiler options NAME=VALUE, joined by commas, with values of their own types.

    Raises UserError for a missing value.
    """
    found: dict[str, bool | int | str] = {}
    for option in options.split(","):
        name, _, value = option.partition("=")
        if not value:
            raise UserError(f"the option {option!r} has no value: write NAME=VALUE, as in xla_gpu_force_conv_nhwc=true")
        number = int(value) if re.fullmatch(r"-?\d+", value) else value
        found[name] = value == "true" if value in ("true", "false") else number
    return found


def schedule(
    *,
    machines: tuple[str, ...] = ("8 × H100", "8 × A100"),
    programs: tuple[str, ...] = ("vgg16 mesh", "vgg16 ascent"),
    options: tuple[str, ...] = (),
) -> None:
    """Compile programs for GPUs, and show layouts, transposes, and what runs while gradients are summed.

    Args:
        machines: The machines, of GPUs.
        programs: The programs, as in ahead_of_time.py.
        options: Compiler options NAME=VALUE, each of which is tried alone; those joined by commas are tried together.
    """
    for name in machines:
        if name not in MACHINES or MACHINES[name].platform != "cuda":
            raise unknown("machine with GPUs", name, [name for name in MACHINES if MACHINES[name].platform == "cuda"])
    for name in programs:
        if name not in PROGRAMS:
            raise unknown("program", name, PROGRAMS)
    if reason := missing("cuda"):
        raise UserError(reason)
    tried = [{}, *map(parse, options)]
    rows = []
    for machine in machines:
        for program in programs:
            for chosen in tried:
                with tempfile.TemporaryDirectory() as folder:
                    text = Path(folder) / "program.txt"
                    row = ahead_of_time.compile_there(machine, program, json.dumps(chosen), str(text))
                    found = read(text.read_text())
                rows.append(_cells(machine, program, chosen, found, row.bytes_used))
                print(table(rows[-1:]) if len(rows) == 1 else table(rows[-1:]).splitlines()[-1], flush=True)
    if len(rows) > 1:
        print(f"\n{table(rows)}")


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Aligned columns for people."""
    head = (
        "machine",
        "program",
        "NHWC",
        "NCHW",
        "transposed",
        "largest",
        "all-reduces",
        "MB",
        "hidden",
        "GiB",
        "option",
    )
    return compare.aligned(head, rows)


def _cells(machine: str, program: str, chosen: dict, found: Schedule, used: int) -> tuple[str, ...]:
    share = f"{found.hidden / found.reduced:.0%}" if found.reduced else "–"
    return (
        machine, program, str(found.channels_last), str(found.channels_first), f"{found.transposed / 1e6:.0f}",
        f"{found.largest / 1e6:.0f}", str(found.all_reduces), f"{found.reduced / 1e6:.0f}", share,
        f"{used / 2**30:.2f}",
        ",".join(f"{name}={str(value).lower()}" for name, value in chosen.items()) or "none",
    )  # fmt: skip


if __name__ == "__main__":
    command_line.main(schedule)
