"""What an atlas of all filters costs: CPU seconds per filter in each layer, and projections for whole networks.

    python benchmarks/atlas.py                                     # VGG16's 4,224 filters, 512 steps of lucid's recipe
    python benchmarks/atlas.py --weights vgg16-mini --measured block1_conv2 block3_conv3 block5_conv3

Measured is the CPU time of the process, not the time on the clock, so that other work on the machine matters little: on
n free cores an atlas takes about an n-th of it. Steps of the `measured` layers are timed, with compilation left out;
those of the others follow by their FLOPs, at the rate of the next measured layer. For accelerators the rate is that of
the program "vgg16 atlas" in results/ahead_of_time.json, for chips that draw different filters and never communicate.
Writes benchmarks/results/atlas.json.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import compare
import jax
from machines import MACHINES
from tqdm import tqdm

from cnnjax import analysis, formats, visualize
from cnnjax.cli import command_line
from cnnjax.errors import unknown
from cnnjax.files import write_json
from cnnjax.network import Network
from cnnjax.visualize.atlas import RECIPE, Layer, choose_layers
from cnnjax.visualize.layers import at_image_size
from cnnjax.visualize.recipes import recipe

LAST = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")


@dataclass(frozen=True)
class Row:
    """A layer. flops: of one step of one filter. seconds: CPU seconds of one filter's whole picture."""

    layer: str
    filters: int
    image_size: tuple[int, int]
    flops: int
    measured: bool
    seconds: float


def flops(network: Network, layer: Layer) -> int:
    """Of one step of one filter: the forward pass up to the layer, and as much for the gradient of the image."""
    rows = analysis.summary(at_image_size(network, layer.image_size)).rows
    last = [row.layer for row in rows].index(layer.name)
    return 2 * sum(row.flops for row in rows[: last + 1])


def cpu_seconds(network: Network, layer: Layer, batch_size: int, steps: int) -> float:
    """CPU seconds of one step of one filter: what `steps` more steps add."""

    def draw(steps: int) -> float:
        begun = time.process_time()
        visualize.render(
            network,
            visualize.channel(layer.name, range(batch_size)),
            recipe=RECIPE,
            steps=steps,
            image_size=layer.image_size,
            batch_size=batch_size,
        )
        return time.process_time() - begun

    draw(1)
    few = draw(1)
    return max(draw(1 + steps) - few, 0.0) / steps / batch_size


def project(network: Network, layers: tuple[Layer, ...], measured: dict[str, float], steps: int) -> list[Row]:
    """A row for each layer. measured: CPU seconds of one step of one filter, by layer."""
    work = {layer.name: flops(network, layer) for layer in layers}
    names = [layer.name for layer in layers]
    rows = []
    for i, layer in enumerate(layers):
        near = next(name for name in [*names[i:], *reversed(names[:i])] if name in measured)
        step = measured[near] * work[layer.name] / work[near]
        rows.append(
            Row(layer.name, len(layer.chosen), layer.image_size, work[layer.name], layer.name in measured, step * steps)
        )
    return rows


def accelerators(rows: list[Row], steps: int, compiled: Path) -> dict[str, float]:
    """Seconds for all filters on each machine with an estimate in the file of `ahead_of_time.py`: eight chips."""
    total = steps * sum(row.flops * row.filters for row in rows)
    found = {}
    for one in json.loads(compiled.read_text())["rows"] if compiled.is_file() else []:
        if one["program"] == "vgg16 atlas" and one["share"]:
            found[one["machine"]] = total / (one["share"] * MACHINES[one["machine"]].peak * 8)
    return found


def table(rows: list[Row]) -> str:
    """Aligned columns for people."""
    lines = [
        (
            row.layer, str(row.filters), "×".join(map(str, row.image_size)), f"{row.flops / 1e9:.2f}",
            f"{row.seconds:.1f}" + ("" if row.measured else "*"), f"{row.seconds * row.filters / 3600:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    hours = sum(row.seconds * row.filters for row in rows) / 3600
    lines.append(("total", str(sum(row.filters for row in rows)), "", "", "", f"{hours:.2f}"))
    return compare.aligned(("layer", "filters", "picture", "GFLOP a step", "CPU s a filter", "CPU hours"), lines)


def atlas(
    *,
    weights: str = "vgg16",
    measured: tuple[str, ...] = LAST,
    steps: int | None = None,
    timed_steps: int = 3,
    batch_size: int = 8,
    compiled: Path = Path("benchmarks/results/ahead_of_time.json"),
    out: Path = Path("benchmarks/results/atlas.json"),
) -> None:
    """Time some layers, and project the whole atlas.

    Args:
        weights: A network, as for the command atlas; of vgg16 the convolutions.
        measured: The layers whose steps are timed.
        steps: Steps of each picture; by default the recipe's.
        timed_steps: How many are timed.
        batch_size: Filters at a time.
        compiled: The file of ahead_of_time.py.
        out: The file for the results.
    """
    network = formats.resolve(weights, include_top=False)
    layers = choose_layers(network)
    for name in measured:
        if name not in [layer.name for layer in layers]:
            raise unknown("layer", name, [layer.name for layer in layers])
    steps = recipe(RECIPE).steps if steps is None else steps
    found = {}
    for layer in tqdm([layer for layer in layers if layer.name in measured], unit=" layers", leave=False):
        found[layer.name] = cpu_seconds(network, layer, batch_size, timed_steps)
        tqdm.write(f"{layer.name}: {found[layer.name]:.3g} CPU s for a step of one filter")
    rows = project(network, layers, found, steps)
    print(table(rows))
    estimates = accelerators(rows, steps, compiled)
    for name, seconds in estimates.items():
        print(f"{name}: {seconds:.0f} s for all filters, by the compiler's estimate of one chip's program")
    device = jax.devices()[0].device_kind
    facts = {"weights": weights, "recipe": RECIPE, "steps": steps, "device": device, "jax": jax.__version__}
    write_json(out, facts | {"rows": [asdict(row) for row in rows], "accelerators_seconds": estimates})
    print(f"wrote {out}")


if __name__ == "__main__":
    command_line.main(atlas)
