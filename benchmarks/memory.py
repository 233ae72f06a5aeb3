"""What bfloat16, microbatches and rematerialization save: the memory of VGG16's training step in each combination.

    python benchmarks/memory.py
    python benchmarks/memory.py --compiler h100 --out benchmarks/results/memory_h100.json

Nothing is run: the compiler states what the step will take (`memory_analysis`). For a CPU this says nothing about
accelerators, because a CPU computes bfloat16 in float32. `--compiler h100` asks XLA's GPU compiler, without a GPU, what
an H100 would need (extra `cuda`). Writes benchmarks/results/memory.json and a plot next to it.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import compare
import flops
import jax
import jax.numpy as jnp
import workloads
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from cnnjax import figures, models
from cnnjax.cli import command_line
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.train.state import TrainState, create_state
from cnnjax.train.step import Batch, train_step

# The part of openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb, that this compilation reads.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclass(frozen=True)
class Row:
    """Bytes of a compiled step.

    arguments: the state and the batch. alias: the part of the arguments whose memory the results reuse, which is the
    state. temporary: what is alive only within the step. peak: arguments, results that are not aliased, and
    temporaries. flops: of convolutions and dense layers, relative to the step without rematerialization.
    """

    precision: Literal["float32", "bfloat16"]
    microbatches: int
    remat: bool
    arguments: int
    alias: int
    temporary: int
    peak: int
    flops: float
    seconds: float


def device(compiler: Literal["cpu", "h100"]) -> Any:
    """The device to compile for. Raises UserError if its compiler is not installed."""
    if compiler == "cpu":
        return jax.devices("cpu")[0]
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    except Exception as error:  # jax has no class of its own for a platform that is not there
        raise UserError(
            f"XLA's GPU compiler is not installed: pip install 'cnnjax[cuda]' ({str(error).splitlines()[0]})"
        ) from error


def recomputed(work: dict[str, Any]) -> float:
    """FLOPs with rematerialization relative to those without: the blocks' convolutions are computed once more."""
    rows = flops.network(work).rows
    again = sum(row.flops for row in rows if row.flops and "conv" in row.layer)
    return 1 + again * work["batch_size"] / flops.count(work)


def compiled(work: dict[str, Any], changes: dict[str, Any], place: Any) -> jax.stages.Compiled:
    """The training step of `work` ("model", "batch_size", "image_size"), compiled for a device."""
    batch_size, size = work["batch_size"], work["image_size"]
    network = workloads.abstract(work["model"], size)
    _, params, model_state = models.split(network)
    config = workloads.step_config(network, work["model"], **changes)
    state = jax.eval_shape(lambda *arrays: create_state(*arrays, config.tx), params, model_state)
    images = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)
    numbers = jax.ShapeDtypeStruct((batch_size,), jnp.int32)

    def step(state: TrainState, batch: Batch) -> Any:
        return train_step(config, state, batch, jax.random.key(0), normalize.identity())

    here = SingleDeviceSharding(place)
    program = jax.jit(step, donate_argnums=0, in_shardings=here, out_shardings=here)
    return program.lower(state, Batch(images, numbers, numbers)).compile()


def memory(
    *,
    model: Literal["small-cnn", "vgg11", "vgg13", "vgg16", "vgg19"] = "vgg16",
    batch_size: int = 32,
    image_size: int = 224,
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16"),
    microbatches: tuple[int, ...] = (1, 4),
    compiler: Literal["cpu", "h100"] = "cpu",
    out: Path = Path("benchmarks/results/memory.json"),
) -> None:
    """Compile a training step in every combination and tabulate its memory.

    Args:
        model: The network that is trained.
        batch_size: Images per step.
        image_size: Height and width in pixels.
        precisions: Types in which the layers compute.
        microbatches: Numbers of parts that the batch is divided into.
        compiler: The device to compile for.
        out: The file for the results.
    """
    if not precisions or not microbatches:
        raise UserError("there is nothing to compile: give --precisions and --microbatches")
    if uneven := [count for count in microbatches if count < 1 or batch_size % count]:
        raise UserError(f"--microbatches {uneven[0]} does not divide the batch of {batch_size}")
    work = {"model": model, "batch_size": batch_size, "image_size": image_size, "task": "train"}
    place, rows, again = device(compiler), [], recomputed(work)
    combinations = list(itertools.product(precisions, microbatches, (False, True)))
    for precision, count, remat in tqdm(combinations, unit=" programs", dynamic_ncols=True):
        started = time.perf_counter()
        program = compiled(work, {"precision": precision, "microbatches": count, "remat": remat}, place)
        found = program.memory_analysis()
        sizes = (found.argument_size_in_bytes, found.alias_size_in_bytes, found.temp_size_in_bytes)
        peak = sizes[0] + found.output_size_in_bytes - sizes[1] + sizes[2]
        seconds = time.perf_counter() - started
        rows.append(Row(precision, count, remat, *sizes, peak, again if remat else 1.0, seconds))
    print(table(rows))
    compare.write(out, rows, place.device_kind, {"compiler": compiler, **work})
    title = f"{model}, a training step of {batch_size} images of {image_size}², compiled for {place.device_kind}"
    plot = figures.memory(title, rows, out.with_suffix(".png"))
    print(f"wrote {out} and {plot}")


def table(rows: Sequence[Row]) -> str:
    """Aligned columns, in GiB."""
    head = ("precision", "remat", "microbatches", "arguments", "aliased", "temporary", "peak", "of the first", "FLOPs")
    lines = [
        (
            row.precision,
            "yes" if row.remat else "no",
            str(row.microbatches),
            *(f"{size / 2**30:.2f} GiB" for size in (row.arguments, row.alias, row.temporary, row.peak)),
            f"{row.peak / rows[0].peak:.0%}",
            f"{row.flops:.2f}×",
        )
        for row in rows
    ]
    return compare.aligned(head, lines)


if __name__ == "__main__":
    command_line.main(memory)
