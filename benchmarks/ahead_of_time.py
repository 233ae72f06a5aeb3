"""Training steps and the optimization of images, compiled for TPUs and GPUs on a machine that has neither.

    python benchmarks/ahead_of_time.py
    python benchmarks/ahead_of_time.py --platforms tpu --only "TPU v5e-8" --programs "vgg16 mesh"

Needs the extras `tpu` and `cuda` (with one of them the other platform is left out, with a message), but no accelerator
and no driver. Compiling VGG16 for a TPU takes two minutes or more on one core. Rows that are already in the file of
results are kept, and compiled again only with --again; each row is written as soon as it is known.
Writes benchmarks/results/ahead_of_time.json and, if there are rows of TPUs, a plot next to it. README.md explains the
columns and how the compiler's estimates were corrected.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import compare
import compiled
import flops
import machines
from machines import MACHINES, Machine
from tqdm import tqdm

from cnnjax import figures
from cnnjax.cli import command_line
from cnnjax.errors import UserError, unknown

WORKER = Path(compiled.__file__)


@dataclasses.dataclass(frozen=True)
class Row(compiled.Found):
    """A program on a machine. All numbers are per chip, except `images_per_second`, which is for all chips together.

    flops: analytic (`flops.py`). step: seconds; of_step: its parts, which are the compiler's cycles, operations without
    an estimate, and all-reduces. share: of the chip's peak, by the analytic FLOPs. roofline_share: the same by the
    compiler's other estimate. None on GPUs, whose compiler estimates no times.
    """

    machine: str
    program: str
    images: int
    chips: int
    flops: int
    memory: float
    step: float | None
    of_step: tuple[float, float, float] | None
    images_per_second: float | None
    share: float | None
    roofline_share: float | None

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory of a chip."""
        return self.bytes_used < self.memory


def row(name: str, program: str, found: dict[str, Any]) -> Row:
    """What the compiler reports, with what follows from it."""
    machine, about = MACHINES[name], compiled.PROGRAMS[program]
    images, chips, count = about.images_per_chip, about.chips, flops.count(about.work)
    more = dict.fromkeys(("step", "of_step", "images_per_second", "share", "roofline_share"))
    if machine.platform == "tpu":
        parts = times(machine, chips, found)
        step = sum(parts)
        more = {
            "step": step,
            "of_step": parts,
            "images_per_second": images * chips / step,
            "share": count / machine.peak / step,
            "roofline_share": count / machine.peak / found["roofline"],
        }
    facts = {"machine": name, "program": program, "images": images, "chips": chips, "flops": count}
    return Row(**facts, memory=machine.memory, **more, **found)


def times(machine: Machine, chips: int, found: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds of a step's parts: operations with an estimate, those without, and sums over chips (not overlapped)."""
    return (
        found["cycles"] / machine.clock,
        found["unknown_bytes"] / (machine.passes * machine.clock),
        2 * (chips - 1) / chips * found["reduced_bytes"] / machine.links,
    )


def compile_there(name: str, program: str, *more: str) -> Row:
    """Compile in another process. more: see `compiled.py`.

    Raises UserError, with the last line that it printed, if that fails.
    """
    command = [sys.executable, str(WORKER), name, program, *more]
    done = subprocess.run(command, env=os.environ | machines.ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{program} was not compiled for {name} ({reason}): run {' '.join(command[1:])!r} to see more")
    return row(name, program, json.loads(done.stdout.splitlines()[-1]))


def table(rows: Sequence[Row]) -> str:
    """Aligned columns for people."""
    head = (
        "machine", "program", "GiB", "of", "TFLOP", "compiler's", "all-reduces", "MB", "convolutions", "cuDNN",
        "step, ms", "images/s", "of peak", "roofline",
    )  # fmt: skip
    return compare.aligned(head, [(*_always(r), *_timed(r)) for r in rows])


def _always(r: Row) -> tuple[str, ...]:
    counted = f"{r.compiler_flops / 1e12:.3g}" if r.compiler_flops else "–"
    return (
        r.machine, r.program, f"{r.bytes_used / machines.GIB:.2f}", f"{r.memory / machines.GIB:.0f}",
        f"{r.flops / 1e12:.3g}", counted, str(r.reductions), f"{r.reduced_bytes / 1e6:.0f}", str(r.convolutions),
    )  # fmt: skip


def _timed(r: Row) -> tuple[str, ...]:
    if r.step is None:
        return (str(r.cudnn), *"––––")
    return "–", f"{1e3 * r.step:.1f}", f"{r.images_per_second:,.0f}", f"{r.share:.0%}", f"{r.roofline_share:.0%}"


def earlier(path: Path) -> dict[tuple[str, str], Row]:
    """The rows in the file of results, if there is one."""
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text())["rows"]
        fields = [field.name for field in dataclasses.fields(compiled.Found)]
        # What follows from the compiler's report is computed anew.
        found = [row(r["machine"], r["program"], {name: r[name] for name in fields}) for r in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of this benchmark ({error}): give another --out") from error
    return {(r.machine, r.program): r for r in found}


def ahead_of_time(
    *,
    platforms: tuple[Literal["tpu", "cuda"], ...] = ("tpu", "cuda"),
    only: tuple[str, ...] = tuple(MACHINES),
    programs: tuple[str, ...] = tuple(compiled.PROGRAMS),
    again: bool = False,
    out: Path = Path("benchmarks/results/ahead_of_time.json"),
) -> None:
    """Compile programs for machines, and tabulate what the compiler reports.

    Args:
        platforms: The platforms of the machines.
        only: The machines.
        programs: The programs to compile; "mesh" is jit over a mesh.
        again: Compile rows again that are already in the file of results.
        out: The file for the results.
    """
    for name in only:
        if name not in MACHINES:
            raise unknown("machine", name, MACHINES)
    for program in programs:
        if program not in compiled.PROGRAMS:
            raise unknown("program", program, compiled.PROGRAMS)
    reasons = {platform: machines.missing(platform) for platform in platforms}
    for platform, reason in reasons.items():
        if reason:
            print(f"{platform}: left out, {reason}")
    chosen = [name for name in only if reasons.get(MACHINES[name].platform) == ""]
    rows = earlier(out)
    wanted = [(name, program) for program in programs for name in chosen if again or (name, program) not in rows]
    if not rows and not wanted:
        raise UserError("there is nothing to compile with: pip install -e '.[tpu]' or '.[cuda]'")
    with tqdm(wanted, unit=" programs", leave=False) as bar:
        for name, program in bar:
            bar.set_description(f"{program} for {name}")
            try:
                rows[name, program] = compile_there(name, program)
            except UserError as error:
                tqdm.write(str(error))
                continue
            write(out, rows)
    order = {name: i for i, name in enumerate(MACHINES)}
    shown = sorted(rows.values(), key=lambda r: (order[r.machine], list(compiled.PROGRAMS).index(r.program)))
    print(table(shown))
    write(out, rows)
    print(f"wrote {out}", end="")
    if timed := [r for r in shown if r.step is not None]:
        print(f" and {figures.shares(timed, out.with_suffix('.png'))}", end="")
    print()


def write(out: Path, rows: dict[tuple[str, str], Row]) -> None:
    """All rows, in the order of machines and programs."""
    order = {name: i for i, name in enumerate(MACHINES)}
    kept = sorted(rows.values(), key=lambda r: (order[r.machine], list(compiled.PROGRAMS).index(r.program)))
    compare.write(out, kept, "none: compiled ahead of time")


if __name__ == "__main__":
    command_line.main(ahead_of_time)
