"""The floating-point operations per second of the device: of a large matmul, and as its maker states them.

    python benchmarks/peak.py

A share of a measured peak can exceed 1: another library's kernels may be better than XLA's matmul, and a faster
algorithm (Winograd) does fewer operations than are counted.
"""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from cnnjax.cli import command_line
from cnnjax.errors import UserError

ROUNDS = 10
SIDES = {"cpu": (512, 1024, 2048)}  # small ones finish between two interruptions by other programs
LARGE = (4096, 8192)

# Dense, per chip, from the makers' data sheets: (bfloat16, float32). At its default precision JAX computes float32
# matmuls in TF32 on these GPUs and from bfloat16 inputs on TPUs, so these are the limits given for float32.
PUBLISHED = {
    "A100": (312e12, 156e12),
    "H100 PCIe": (756e12, 378e12),
    "H100 80GB HBM3": (989e12, 495e12),
    "H200": (989e12, 495e12),
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
}


@dataclasses.dataclass(frozen=True)
class Peak:
    """FLOP/s of one device in `dtype`: measured, and as published where that is known."""

    device: str
    dtype: str
    measured: float
    published: float | None = None

    @property
    def flops_per_second(self) -> float:
        """The peak that shares refer to: the published one of an accelerator, else the measured one."""
        return self.published or self.measured


def published(device: str, dtype: str) -> float | None:
    """FLOP/s that the maker states for a device kind, by JAX's name for it; None if it is not in the list."""
    for name, (half, single) in PUBLISHED.items():
        if name in device:
            return {"bfloat16": half, "float32": single}.get(dtype)
    return None


def measure(dtype: str = "float32") -> Peak:
    """The default device's peak, measured in another process so that the device is free again afterwards.

    Raises UserError, with the last line that the process printed, if that fails.
    """
    command = [sys.executable, str(Path(__file__)), "--dtype", dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"the device's peak cannot be measured ({reason}): run {Path(__file__).name} by itself")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def matmuls(dtype: str) -> Peak:
    """The fastest of `ROUNDS` matmuls of each size, in this process."""
    import jax  # here: `measure` must not start a backend in its caller's process

    device = jax.devices()[0]
    best = 0.0
    for image_size in SIDES.get(device.platform, LARGE):
        a = jax.random.normal(jax.random.key(0), (image_size, image_size), dtype)
        multiply = jax.jit(lambda a: a @ a)
        best = max(best, max(_rate(multiply, a, 2 * image_size**3) for _ in range(1 + ROUNDS)))
    return Peak(device.device_kind, dtype, best, published(device.device_kind, dtype))


def _rate(call: Any, argument: Any, work: int) -> float:
    start = time.perf_counter()
    call(argument).block_until_ready()
    return work / (time.perf_counter() - start)


def peak(*, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
    """Measure the device's peak and print it as a line of JSON.

    Args:
        dtype: The numbers' type.
    """
    print(json.dumps(dataclasses.asdict(matmuls(dtype))))


if __name__ == "__main__":
    command_line.main(peak)
