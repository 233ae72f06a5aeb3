"""The article's 40 filters of VGG16: time until the activation that keras-vis' recipe reaches.

    python benchmarks/visualization.py                                        # hours on a few cores
    python benchmarks/visualization.py --layers block3_conv3 --filters 2 --image_size 112 --steps 60 40

A port of keras-vis 0.4.1 to today's Keras and TensorFlow draws the article's filters one by one; what it reaches is the
target (two of them, see `race.py`). This package draws a layer's filters as one batch until each has reached its own.
The activation is the mean of the filter's map for the uint8 picture, without jitter: the picture is what both hand out,
and all pictures have one contrast, where the floats before could gain by mere size.

Without --weights, the network is VGG16 with random kernels. Needs the extra `peers`; tf-keras-vis takes part where
it is installed. Writes benchmarks/results/visualization.json and a plot next to it.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share an accelerator's memory

import compare
import jax
import jax.numpy as jnp
import numpy as np
import race
from tqdm import tqdm

from cnnjax import figures, formats, models
from cnnjax.cli import command_line
from cnnjax.cli.config import ModelConfig
from cnnjax.data.normalize import Cleaning
from cnnjax.errors import UserError, unknown
from cnnjax.ops import conv, max_pool
from cnnjax.visualize import layers as layers_
from cnnjax.visualize.recipes import FILTERS, filters_of


def random_vgg16(seed: int = 0) -> formats.Network:
    """VGG16 of random He-normal kernels for pixels in 0 to 255, as the article feeds them.

    Biases put each channel's mean on noise at 0. Without them, half of the deep channels of a random network never
    fire, and there would be nothing to climb.
    """
    model = ModelConfig(name="vgg16", dense=1)
    graph, params = models.split(models.create(model, image_size=32, num_classes=2, seed=seed))
    params["block1_conv1"]["kernel"] *= 255
    x = (127.5 + 12.75 * jax.random.normal(jax.random.key(seed), (16, 32, 32, 3))) / 255
    names = sorted(name for name in params if "_conv" in name)
    for name, following in zip(names, [*names[1:], ""], strict=True):
        z = conv(x, params[name]["kernel"])
        params[name]["bias"] = -z.mean(axis=(0, 1, 2))
        x = jax.nn.relu(z + params[name]["bias"][None, None, None, :])
        x = x if following.startswith(name[:6]) else max_pool(x)
    nothing = Cleaning("none", jnp.zeros((0,)), jnp.zeros((0, 0)), jnp.zeros((0,)))
    return formats.network(graph, params, model, 32, ("no", "yes"), nothing, {"random": seed})


def chosen(network: formats.Network, layers: Sequence[str], filters: int) -> dict[str, list[int]]:
    """The filters to draw, by layer. Raises UserError for what the network has not, or the contenders cannot draw."""
    if not network.model.name.startswith("vgg") or network.cleaning.kind not in ("none", "mean", "standard"):
        about = f"is a {network.model.name} with cleaning {network.cleaning.kind!r}"
        raise UserError(f"the network of --weights {about}: give a VGG with none, mean or standard")
    known = {name: shape for name, shape in layers_.shapes(network).items() if "_conv" in name}
    return {
        layer: layers_.require(known, layer, filters_of(layer, known.get(layer, (0,))[-1])[:filters])
        for layer in layers
    }


def table(found: Sequence[race.Row]) -> str:
    """Aligned columns for people."""
    head = ("target", "who", "seconds", "reached", "steps", "activation", "faster by", "s/step/image", "faster by")
    lines = [
        (
            row.workload,
            row.who,
            f"{row.median:.2f}",
            f"{row.reached} of {row.filters - row.dead}",
            f"{row.steps:.0f}",
            f"{row.activation:.4g}",
            f"{row.ratio:.2f}×",
            f"{row.step_seconds:.4f}",
            f"{row.step_ratio:.2f}×",
        )
        for row in found
    ]
    return compare.aligned(head, lines)


def visualization(
    *,
    layers: tuple[str, ...] = tuple(FILTERS),
    filters: int = 8,
    image_size: int = 224,
    steps: tuple[int, int] = (300, 200),
    who: tuple[str, ...] = tuple(race.WHO),
    rounds: int = 1,
    weights: Path | None = None,
    seed: int = 0,
    out: Path = Path("benchmarks/results/visualization.json"),
) -> None:
    """Time until the activation that keras-vis' recipe reaches.

    Args:
        layers: Which layers.
        filters: The first so many of the article's eight filters of each layer.
        image_size: Height and width in pixels.
        steps: Steps of the recipe's two passes. Ours may take twice their sum.
        who: Which contenders; cnnjax and the keras-vis port always take part.
        rounds: Turns of each contender, with the same draws.
        weights: A VGG's weights file that cnnjax wrote; else VGG16 with random kernels.
        seed: Of the noise, the jitter and the random kernels.
        out: The file for the results.
    """
    for name in who:
        if name not in race.WHO:
            raise unknown("contender", name, race.WHO)
    if min(*steps, filters, rounds, len(layers)) < 1:
        raise UserError("--steps, --filters and --rounds start at 1, and there must be a layer: give larger numbers")
    contenders = [c for c in race.WHO.values() if c.who in {*who, race.OURS.who, race.PORT.who}]
    network = formats.load(weights) if weights else random_vgg16(seed)
    channels = chosen(network, layers, filters)
    found: list[race.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        formats.save(folder / "weights.safetensors", network)
        np.save(folder / "picture.npy", np.random.default_rng(seed).integers(0, 256, (image_size, image_size, 3), np.uint8))
        files = {"weights": "weights.safetensors", "picture": "picture.npy", "targets": "targets.json"}
        work = {key: str(folder / file) for key, file in files.items()} | {"image_size": image_size, "steps": steps, "seed": seed}
        for layer in tqdm(layers, desc="layers", unit=" layer"):
            own = work | {"layer": layer, "channels": channels[layer]}
            new = race.rows(own, *race.race(contenders, own, rounds, folder))
            tqdm.write(table(new))
            found += new
            # After each layer, since one may take an hour.
            more = {"image_size": image_size, "steps": steps, "rounds": rounds, "channels": channels, "seed": seed}
            more["weights"] = network.made | {"sha256": network.digest}
            compare.write(out, found, jax.devices()[0].device_kind, more)
    panels = {row.workload: [r for r in found if r.workload == row.workload] for row in found}
    print(f"wrote {out} and {figures.compare(panels, out.with_suffix('.png'))}")


if __name__ == "__main__":
    command_line.main(visualization)
