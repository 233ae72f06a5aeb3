"""One program compiled for a machine that need not be present: `compiled.py MACHINE PROGRAM` prints a line of JSON.

This runs in a process of its own, because its environment (`machines.ENVIRONMENT`) must be set before jax is imported.
"""

import json
import math
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import machines
import optax
import workloads
from flax import nnx
from machines import MACHINES, Machine

from cnnjax import models
from cnnjax.data import normalize
from cnnjax.data.dataset import ArraySplit
from cnnjax.data.normalize import Normalizer
from cnnjax.network import Network
from cnnjax.train import optimizers, strategy
from cnnjax.train.state import create_state
from cnnjax.visualize.lowering import lower as lower_render

EACH = 128
FILTERS = 16
LAYER = "block5_conv3"
MODELS = {"small-cnn": 150, "vgg16": 224}
ATLAS_SIZE = 128
STACKS = {f"small-cnn stack of {size}": size for size in (1, 8, 64)}
STACK_BATCH, SPLIT = 32, 2000
PROGRAMS = (
    *(f"{model} {mode}" for model in MODELS for mode in ("mesh", "pmap", "mesh, plain Flax")),
    "vgg16 ascent",
    "vgg16 atlas",
    *STACKS,
)


@dataclass(frozen=True)
class Found:
    """What the compiler reports about a program, for each chip.

    bytes_used: arguments, results that do not reuse an argument's memory, and temporaries. compiler_flops: as the
    compiler counts. reductions, reduced_bytes: all-reduces over the chips. convolutions: in the program; `cudnn` of
    them are cuDNN calls (0 on a TPU). cycles: the sum of the compiler's estimates. unknown_bytes: what operations
    without an estimate (select and scatter) read and write. roofline: the compiler's `optimal_seconds`, plus one second
    for each operation that it does not know, of which there are `unknown`.
    """

    bytes_used: int
    compiler_flops: float
    reductions: int
    reduced_bytes: int
    convolutions: int
    cudnn: int
    cycles: int
    unknown_bytes: int
    roofline: float
    unknown: int
    compile_seconds: float


def size(shape: str) -> int:
    """Bytes of all arrays in an HLO shape, such as `(f32[64]{0}, bf16[3,3,3,64]{3,2,1,0})`."""
    bits = {"pred": 8, "bf16": 16, "c64": 64}
    total = 0
    for kind, sizes in re.findall(r"\b(pred|bf16|c64|[fsu]\d+)\[([\d,]*)\]", shape):
        total += (bits.get(kind) or int(kind[1:])) // 8 * math.prod(int(n) for n in sizes.split(",") if n)
    return total


def read(hlo: str) -> dict[str, int]:
    """Counts from the text of a compiled program; the body of a loop counts once."""
    reductions = re.findall(r"= (.*?) all-reduce(?:-start)?\(", hlo)
    scatters = re.findall(r"= (\S+) select-and-scatter\(.*stride=([\dx]+)", hlo)
    cudnn = len(re.findall(r'custom_call_target="__cudnn\$conv', hlo))
    plain = len(re.findall(r"= \S+ convolution\(.*op_name=\"[^\"]*conv_general_dilated", hlo))
    return {
        "reductions": len(reductions),
        "reduced_bytes": sum(map(size, reductions)),
        "convolutions": plain + cudnn,
        "cudnn": cudnn,
        "cycles": sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', hlo))),
        # The operand, the result of its size, and the gradient of the windows.
        "unknown_bytes": sum(
            round(size(shape) * (2 + 1 / math.prod(map(int, strides.split("x"))))) for shape, strides in scatters
        ),
    }


def measure(lowered: jax.stages.Lowered) -> Found:
    """Compile a program and read what the compiler reports."""
    begun = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - begun
    memory, costs = program.memory_analysis(), program.cost_analysis() or {}
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    roofline = costs.get("optimal_seconds", 0.0)
    unknown = max(0, math.ceil(-roofline))
    return Found(
        bytes_used=used + memory.temp_size_in_bytes,
        compiler_flops=costs.get("flops", 0.0),
        roofline=roofline + unknown,
        unknown=unknown,
        compile_seconds=seconds,
        **read(program.as_text()),
    )


def training(
    model: str, mode: str, chips: list[jax.Device], each: int = EACH, plain: bool = False
) -> jax.stages.Lowered:
    """A training step in bfloat16 with `each` images per chip, lowered; of ordinary Flax layers if `plain`."""
    size, batch_size = MODELS[model], each * len(chips)
    network = nnx.eval_shape(lambda: plain_model(model, size)) if plain else workloads.abstract(model, size)
    config = workloads.step_config(network, model, precision="bfloat16", cast_params=plain)
    _, params, model_state = models.split(network)
    state = jax.eval_shape(lambda *arrays: create_state(*arrays, config.tx), params, model_state)
    where = strategy.make_strategy(mode, batch_size, chips)
    return strategy.lower_train_step(where, config, state, no_normalizer(), (size, size, 3), batch_size)


def stacking(size: int, chips: list[jax.Device]) -> jax.stages.Lowered:
    """A training step of a sweep's stack of `size` small networks in bfloat16, which differ in learning rate, lowered.

    Each has `STACK_BATCH` images a step, all from the same split.
    """
    image_size = MODELS["small-cnn"]
    network = workloads.abstract("small-cnn", image_size)
    config = workloads.step_config(network, "small-cnn", precision="bfloat16")
    config = replace(config, tx=optimizers.with_standard_promotion(optax.adam(1e-3)), optimizer=optax.adam)
    _, params, model_state = models.split(network)
    state = jax.eval_shape(lambda *arrays: create_state(*arrays, config.tx), params, model_state)
    images = jax.ShapeDtypeStruct((SPLIT, image_size, image_size, 3), jnp.uint8)
    split = ArraySplit(images, jax.ShapeDtypeStruct((SPLIT,), jnp.int32))
    rates = {"learning_rate": jax.ShapeDtypeStruct((), jnp.float32)}
    where = strategy.stack_strategy(size, chips)
    return strategy.lower_stack_step(where, config, state, no_normalizer(), split, size, STACK_BATCH, rates)


def no_normalizer() -> Normalizer:
    """The identity, with shapes in place of its arrays."""
    return jax.eval_shape(normalize.identity)


def plain_model(model: str, image_size: int) -> nnx.Module:
    """The network of the contender plain_flax.py, without dropout."""
    sys.path.insert(0, str(Path(__file__).parent / "contenders"))
    import plain_flax

    network = plain_flax.build(model, image_size, nnx.Rngs(0))
    network.dropout.rate = 0.0
    return network


def drawing(chips: list[jax.Device], recipe: str, size: int) -> jax.stages.Lowered:
    """Steps of the ascent for `FILTERS` filters a chip of VGG16's last convolution, lowered."""
    graphdef, params, model_state = models.split(workloads.abstract("vgg16", size))
    names = tuple(map(str, range(1000)))
    network = Network(graphdef, params, model_state, no_normalizer(), names, (size, size), 3)
    return lower_render(network, LAYER, FILTERS * len(chips), chips, recipe)


def lower(program: str, chips: list[jax.Device]) -> jax.stages.Lowered:
    """The program of that name for these chips."""
    if program in STACKS:
        return stacking(STACKS[program], chips[:1])
    model, _, mode = program.partition(" ")
    if mode == "ascent":
        return drawing(chips[:1], "filters", MODELS[model])
    if mode == "atlas":
        return drawing(chips, "lucid", ATLAS_SIZE)
    mode, _, plain = mode.partition(", ")
    return training(model, mode, chips, plain=bool(plain))


def main() -> None:
    """Compile what the command line names, and print what the compiler reports."""
    answers, sys.stdout = sys.stdout, sys.stderr
    machine: Machine = MACHINES[sys.argv[1]]
    found = measure(lower(sys.argv[2], machines.devices(machine)))
    print(json.dumps(asdict(replace(found, compile_seconds=round(found.compile_seconds, 1)))), file=answers)


if __name__ == "__main__":
    main()
