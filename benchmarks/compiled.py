"""One program compiled for one machine that is not here: `compiled.py MACHINE PROGRAM` prints a line of JSON.

In a process of its own: its environment must be set before jax is imported (`machines.ENVIRONMENT`).
"""

import json
import math
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import machines
from machines import MACHINES, Machine

EACH = 128
FILTERS = 16
LAYER = "block5_conv3"
MODELS = {"small-cnn": 150, "vgg16": 224}
PROGRAMS = tuple(f"{m} {way}" for m in MODELS for way in ("mesh", "pmap", "mesh, plain Flax")) + ("vgg16 ascent",)


@dataclass(frozen=True)
class Found:
    """What the compiler made of a program, for each chip.

    bytes_used: arguments, results that are not arguments' memory, and temporaries. compiler_flops: as it counts.
    reductions, reduced_bytes: all-reduces over the chips. convolutions: in the compiled program, of which `cudnn` are
    cuDNN calls (0 on a TPU). cycles: the sum of its estimates, `unknown_bytes`: what operations without one (select and
    scatter) read and write. roofline: its `optimal_seconds`, plus one second for each operation that it does not
    know; `unknown`: how many.
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
    """Counts from a compiled program's text; a loop's body counts once."""
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


def measured(lowered: Any) -> Found:
    """Compile, and read."""
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


def training(model: str, way: str, chips: list[Any], each: int = EACH, plain: bool = False) -> Any:
    """A step of training in bfloat16, `each` images per chip, lowered; with ordinary Flax layers if `plain`."""
    import jax
    from flax import nnx

    from cnnjax import models
    from cnnjax.cli.config import AugmentConfig, ModelConfig, OptimizerConfig
    from cnnjax.train import optimizers, strategy
    from cnnjax.train.step import Task, create_state

    image_size, classes = MODELS[model], 2 if model == "small-cnn" else 1000

    def make() -> nnx.Module:
        if plain:
            return _plain(model, image_size)
        return models.create(ModelConfig(name=model), image_size=image_size, num_classes=classes, seed=0)

    graph, params = models.split(nnx.eval_shape(make))
    rule = OptimizerConfig() if model == "small-cnn" else OptimizerConfig(name="sgd", learning_rate=1e-2)
    task = Task(graph, optimizers.create(rule, 1000), AugmentConfig(), precision="bfloat16")
    state = jax.eval_shape(lambda params: create_state(params, task.optimizer), params)
    where = strategy.choose(way, each * len(chips), chips)
    return strategy.lowered(where, task, state, _no_cleaning(), (image_size, image_size, 3), each * len(chips))


def _no_cleaning() -> Any:
    import jax
    import jax.numpy as jnp

    from cnnjax.data.normalize import Cleaning

    return Cleaning("none", *jax.eval_shape(lambda: (jnp.zeros(0), jnp.zeros((0, 0)), jnp.zeros(0))))


def _plain(model: str, image_size: int) -> Any:
    """The contender's network behind this package's interface, without dropout, computing in bfloat16."""
    import jax.numpy as jnp
    from flax import nnx

    sys.path.insert(0, str(Path(__file__).parent / "contenders"))
    import plain_flax

    class Plain(nnx.Module):
        def __init__(self, network: plain_flax.Network):
            self.blocks, self.dense, self.last = network.blocks, network.dense, network.last
            for layer in (*(conv for convs in self.blocks for conv in convs), *self.dense, self.last):
                layer.dtype = jnp.bfloat16

        convolve = plain_flax.Network.convolve

        def __call__(self, images: Any, keys: Any = None, *, remat: bool = False) -> tuple[Any, dict[str, Any]]:
            x = self.convolve(images)
            x = x.reshape(len(x), -1)
            for layer in self.dense:
                x = nnx.relu(layer(x))
            return self.last(x), {}

    return Plain(plain_flax.build(model, image_size, nnx.Rngs(0)))


def drawing(chip: Any) -> Any:
    """Steps of the ascent for `FILTERS` filters of VGG16's last convolution, on one chip, lowered."""
    from flax import nnx

    from cnnjax import models
    from cnnjax.cli.config import ModelConfig
    from cnnjax.formats import Network
    from cnnjax.visualize import render

    config = ModelConfig(name="vgg16")
    made = nnx.eval_shape(lambda: models.create(config, image_size=224, num_classes=1000, seed=0))
    names = tuple(map(str, range(1000)))
    network = Network(*models.split(made), config, 224, names, _no_cleaning(), "", {})
    return render.lowered(network, LAYER, FILTERS, chip)


def lowered(program: str, chips: list[Any]) -> Any:
    """The program of that name for these chips."""
    model, _, way = program.partition(" ")
    if way == "ascent":
        return drawing(chips[0])
    way, _, plain = way.partition(", ")
    return training(model, way, chips, plain=bool(plain))


def main() -> None:
    """Compile what the command line names, and print what was found."""
    answers, sys.stdout = sys.stdout, sys.stderr
    machine: Machine = MACHINES[sys.argv[1]]
    found = measured(lowered(sys.argv[2], machines.devices(machine)))
    print(json.dumps(asdict(replace(found, compile_seconds=round(found.compile_seconds, 1)))), file=answers)


if __name__ == "__main__":
    main()
