"""One program compiled for a machine that need not be present: `compiled.py MACHINE PROGRAM` prints a line of JSON.

Two more arguments: a JSON object of compiler options, and a file for the text of the compiled program. This runs in a
process of its own, because its environment (`machines.ENVIRONMENT`) must be set before jax is imported.
"""

import json
import math
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from cnnjax.visualize.lowering import lower as lower_render

LAYER = "block5_conv3"
SPLIT = 2000


@dataclass(frozen=True)
class Program:
    """A program to compile.

    mode: "mesh" or "pmap", a training step; "stack", that of a sweep; "draw", the optimization of images. images: on
    each chip; of a stack, of each of its `networks`. chips: on how many. plain: of ordinary Flax layers. recipe: of the
    images that are optimized.
    """

    model: str
    mode: str
    image_size: int
    images: int = 128
    chips: int = 8
    plain: bool = False
    networks: int = 1
    recipe: str = ""

    @property
    def images_per_chip(self) -> int:
        """How many images a step processes on each chip."""
        return self.images * self.networks

    @property
    def work(self) -> dict[str, Any]:
        """What `flops.count` counts."""
        task = "input-gradient" if self.mode == "draw" else "train"
        size = {"image_size": self.image_size, "batch_size": self.images_per_chip}
        return {"model": self.model, "task": task, "layer": LAYER} | size


def programs() -> dict[str, Program]:
    """The programs by name."""
    found = {}
    for model, size in (("small-cnn", 150), ("resnet50", 224), ("vgg16", 224)):
        found |= {f"{model} {mode}": Program(model, mode, size) for mode in ("mesh", "pmap")}
        if model != "resnet50":  # plain_flax.py has none
            found[f"{model} mesh, plain Flax"] = Program(model, "mesh", size, plain=True)
    found["vgg16 ascent"] = Program("vgg16", "draw", 224, 16, 1, recipe="filters")
    found["vgg16 atlas"] = Program("vgg16", "draw", 128, 16, recipe="lucid")
    for size in (1, 8, 64):
        found[f"small-cnn stack of {size}"] = Program("small-cnn", "stack", 150, 32, 1, networks=size)
    return found


PROGRAMS = programs()


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


def measure(
    lowered: jax.stages.Lowered, options: dict[str, bool | int | str] | None = None, text: Path | None = None
) -> Found:
    """Compile a program and read what the compiler reports. text: the file for the compiled program."""
    begun = time.perf_counter()
    program = lowered.compile(compiler_options=options or None)
    seconds = time.perf_counter() - begun
    memory, costs = program.memory_analysis(), program.cost_analysis() or {}
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    if text:
        text.write_text(program.as_text())
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


def training(program: Program, chips: list[jax.Device]) -> jax.stages.Lowered:
    """A training step in bfloat16, lowered."""
    size, batch_size = program.image_size, program.images * len(chips)
    abstract = workloads.abstract(program.model, size)
    network = nnx.eval_shape(lambda: plain_model(program.model, size)) if program.plain else abstract
    config = workloads.step_config(network, program.model, precision="bfloat16", cast_params=program.plain)
    state = workloads.abstract_state(network, config)
    where = strategy.make_strategy(program.mode, batch_size, chips)
    return strategy.lower_train_step(where, config, state, no_normalizer(), (size, size, 3), batch_size)


def stacking(program: Program, chips: list[jax.Device]) -> jax.stages.Lowered:
    """A training step of a sweep's stack of networks in bfloat16, which differ in learning rate, lowered.

    The images of all of them are from the same split.
    """
    size = program.image_size
    network = workloads.abstract(program.model, size)
    config = workloads.step_config(network, program.model, precision="bfloat16")
    config = replace(config, tx=optimizers.with_standard_promotion(optax.adam(1e-3)), optimizer=optax.adam)
    state = workloads.abstract_state(network, config)
    images = jax.ShapeDtypeStruct((SPLIT, size, size, 3), jnp.uint8)
    split = ArraySplit(images, jax.ShapeDtypeStruct((SPLIT,), jnp.int32))
    rates = {"learning_rate": jax.ShapeDtypeStruct((), jnp.float32)}
    where = strategy.stack_strategy(program.networks, chips)
    return strategy.lower_stack_step(
        where, config, state, no_normalizer(), split, program.networks, program.images, rates
    )


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


def drawing(program: Program, chips: list[jax.Device]) -> jax.stages.Lowered:
    """Steps of the ascent for filters of VGG16's last convolution, lowered."""
    size = program.image_size
    graphdef, params, model_state = models.split(workloads.abstract(program.model, size))
    names = tuple(map(str, range(1000)))
    network = Network(graphdef, params, model_state, no_normalizer(), names, (size, size), 3)
    return lower_render(network, LAYER, program.images * len(chips), chips, program.recipe)


def lower(program: Program, chips: list[jax.Device]) -> jax.stages.Lowered:
    """A program for the first of these chips."""
    kind = {"draw": drawing, "stack": stacking}.get(program.mode, training)
    return kind(program, chips[: program.chips])


def main() -> None:
    """Compile what the command line names, and print what the compiler reports."""
    answers, sys.stdout = sys.stdout, sys.stderr
    machine: Machine = MACHINES[sys.argv[1]]
    options, text = (*sys.argv[3:5], None, None)[:2]
    lowered = lower(PROGRAMS[sys.argv[2]], machines.devices(machine))
    found = measure(lowered, json.loads(options or "{}"), Path(text) if text else None)
    print(json.dumps(asdict(replace(found, compile_seconds=round(found.compile_seconds, 1)))), file=answers)


if __name__ == "__main__":
    main()
