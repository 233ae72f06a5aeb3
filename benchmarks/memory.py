"""What bfloat16, microbatches and rematerialisation save: the memory of VGG16's training step in each combination.

    python benchmarks/memory.py
    python benchmarks/memory.py --compiler h100 --out benchmarks/results/memory_h100.json

Nothing is run: the compiler itself tells what the step will take (`memory_analysis`). Of a CPU that is what counts
there, and not a measure of accelerators: a CPU computes bfloat16 by way of float32. `--compiler h100` asks XLA's GPU
compiler, without a GPU, what an H100 would need (extra `cuda`). Writes benchmarks/results/memory.json and the plot
beside it.
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
from flax import nnx
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from cnnjax import figures, models
from cnnjax.cli import command_line
from cnnjax.cli.config import AugmentConfig, ModelConfig, OptimizerConfig
from cnnjax.data.normalize import Cleaning
from cnnjax.errors import UserError
from cnnjax.train import optimizers
from cnnjax.train.step import Batch, Task, create_state, train_step

# Of openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb, what this compilation reads.
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
    """Bytes of a compiled step. The state is among the arguments, and its memory is taken over by the next (`alias`);
    `temporary` is everything that is alive only within the step; `peak`: arguments, results that are not aliased, and
    temporaries. `flops`: products of convolutions and dense layers, over those of the step that keeps everything."""

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
    """Whom to compile for. Raises UserError where its compiler is not installed."""
    if compiler == "cpu":
        return jax.devices("cpu")[0]
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    except Exception as error:  # jax has no class of its own for a platform that is not there
        raise UserError(
            f"XLA's GPU compiler is not installed: pip install 'cnnjax[cuda]' ({str(error).splitlines()[0]})"
        ) from error


def recomputed(work: dict[str, Any]) -> float:
    """FLOPs with rematerialisation over those without, by arithmetic: the blocks' convolutions once more."""
    rows = flops.network(work).rows
    again = sum(row.flops for row in rows if row.flops and "conv" in row.layer)
    return 1 + again * work["batch_size"] / flops.count(work)


def compiled(work: dict[str, Any], changes: dict[str, Any], place: Any) -> Any:
    """The training step of `work` ("model", "batch_size", "image_size"), compiled for a device."""
    batch, image_size, classes = work["batch_size"], work["image_size"], 2 if work["model"] == "small-cnn" else 1000
    config = ModelConfig(name=work["model"])
    made = nnx.eval_shape(lambda: models.create(config, image_size=image_size, num_classes=classes, seed=0))
    graph, params = models.split(made)
    rule = optimizers.create(OptimizerConfig(name="sgd"), 1000)
    task = Task(graph, rule, AugmentConfig(), **changes)
    state = jax.eval_shape(lambda params: create_state(params, rule), params)
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, 3), jnp.uint8)
    numbers = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def step(state: Any, batch: Batch) -> Any:
        return train_step(task, state, batch, jax.random.key(0), Cleaning("none", None, None, None))

    here = SingleDeviceSharding(place)
    program = jax.jit(step, donate_argnums=0, in_shardings=here, out_shardings=here)
    return program.lower(state, Batch(images, numbers, numbers)).compile()


def memory(
    *,
    model: Literal["small-cnn", "vgg11", "vgg13", "vgg16", "vgg19"] = "vgg16",
    batch: int = 32,
    image_size: int = 224,
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16"),
    microbatches: tuple[int, ...] = (1, 4),
    compiler: Literal["cpu", "h100"] = "cpu",
    out: Path = Path("benchmarks/results/memory.json"),
) -> None:
    """Compile a training step in every combination and tabulate its memory.

    Args:
        model: Whose training step.
        batch: Images per step.
        image_size: Height and width in pixels.
        precisions: What layers compute in.
        microbatches: Numbers of parts to cut the batch into.
        compiler: For what device.
        out: The file for the results.
    """
    if not precisions or not microbatches:
        raise UserError("there is nothing to compile: give --precisions and --microbatches")
    if uneven := [count for count in microbatches if count < 1 or batch % count]:
        raise UserError(f"--microbatches {uneven[0]} does not divide the batch of {batch}")
    work = {"model": model, "batch_size": batch, "image_size": image_size, "task": "train"}
    place, rows, again = device(compiler), [], recomputed(work)
    ways = list(itertools.product(precisions, microbatches, (False, True)))
    for precision, count, remat in tqdm(ways, unit=" programs", dynamic_ncols=True):
        started = time.perf_counter()
        program = compiled(work, {"precision": precision, "microbatches": count, "remat": remat}, place)
        found = program.memory_analysis()
        sizes = (found.argument_size_in_bytes, found.alias_size_in_bytes, found.temp_size_in_bytes)
        peak = sizes[0] + found.output_size_in_bytes - sizes[1] + sizes[2]
        seconds = time.perf_counter() - started
        rows.append(Row(precision, count, remat, *sizes, peak, again if remat else 1.0, seconds))
    print(table(rows))
    about = {"compiler": compiler, **work}
    compare.write(out, rows, place.device_kind, about)
    title = f"{model}, a training step of {batch} pictures of {image_size}², compiled for {place.device_kind}"
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
