"""The article's 40 filters of VGG16: the time to the activations that keras-vis' recipe reaches.

    python benchmarks/visualization.py                                        # hours on a few cores
    python benchmarks/visualization.py --layers block3_conv3 --filters 2 --image-size 112 --steps 60 40

A port of keras-vis 0.4.1 to today's Keras and TensorFlow draws the article's filters one by one; what it reaches is the
target (there are two, see `race.py`). This package draws a layer's filters as one batch until each has reached its own.
The activation is the mean of the filter's map for the uint8 image, without jitter: this image is what both return, and
all such images have the same contrast, whereas the floats before could gain by mere scale.

Without --weights, the network is VGG16 with random kernels. Needs the extra `peers`; tf-keras-vis takes part if it is
installed. Writes benchmarks/results/visualization.json and a plot next to it.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share an accelerator's memory

import compare
import jax
import numpy as np
import race
from tqdm import tqdm

from cnnjax import Network, figures, formats, models
from cnnjax.cli import command_line
from cnnjax.data import normalize
from cnnjax.errors import UserError, unknown
from cnnjax.ops import conv, max_pool
from cnnjax.visualize.layers import check_channels, layer_shapes
from cnnjax.visualize.recipes import FILTERS, filters_of


def random_vgg16(seed: int = 0) -> Network:
    """VGG16 with random He-normal kernels for pixels in 0 to 255, as the article feeds them.

    Biases set each channel's mean on noise to 0. Without them, half of the deep channels of a random network are always
    0, and their gradient is 0 as well.
    """
    model = models.create("vgg16", seed, num_classes=1, image_size=32, dense_units=1)
    network = Network.create(model, class_names=("no", "yes"), normalizer=normalize.identity())
    params = network.params
    params["block1_conv1"]["kernel"] *= 255
    x = (127.5 + 12.75 * jax.random.normal(jax.random.key(seed), (16, 32, 32, 3))) / 255
    names = sorted(name for name in params if "_conv" in name)
    for name, following in zip(names, [*names[1:], ""], strict=True):
        z = conv(x, params[name]["kernel"])
        params[name]["bias"] = -z.mean(axis=(0, 1, 2))
        x = jax.nn.relu(z + params[name]["bias"][None, None, None, :])
        x = x if following.startswith(name[:6]) else max_pool(x)
    return network.replace(params=params, provenance={"random": seed})


def chosen(network: Network, layers: Sequence[str], filters: int) -> dict[str, list[int]]:
    """The filters to draw, by layer. Raises UserError for what the network lacks, or the contenders cannot draw."""
    name, kind = (network.config or {}).get("name", "model of another package"), network.normalizer.kind
    if not str(name).startswith("vgg") or str(name).endswith("-bn") or kind not in ("none", "mean", "standard"):
        raise UserError(
            f"the network of --weights is a {name} with normalization {kind!r}: give a VGG without batch normalization "
            "whose normalization is none, mean or standard"
        )
    known = {name: shape for name, shape in layer_shapes(network).items() if "_conv" in name}
    return {
        layer: check_channels(known, layer, filters_of(layer, known.get(layer, (0,))[-1])[:filters]) for layer in layers
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
    """Measure the time to the activations that keras-vis' recipe reaches.

    Args:
        layers: The layers.
        filters: The number of filters of each layer, of the article's eight.
        image_size: Height and width in pixels.
        steps: Steps of the recipe's two stages. cnnjax may take twice their sum.
        who: The contenders; cnnjax and the keras-vis port always take part.
        rounds: Turns of each contender, with the same noise.
        weights: A VGG's weights file that cnnjax wrote; by default VGG16 with random kernels.
        seed: Seed of the noise, the jitter and the random kernels.
        out: The file for the results.
    """
    for name in who:
        if name not in race.WHO:
            raise unknown("contender", name, race.WHO)
    if min(*steps, filters, rounds, len(layers)) < 1:
        raise UserError("--steps, --filters and --rounds must be at least 1, and --layers needs a layer")
    contenders = [c for c in race.WHO.values() if c.who in {*who, race.OURS.who, race.PORT.who}]
    network = formats.load(weights) if weights else random_vgg16(seed)
    channels = chosen(network, layers, filters)
    found: list[race.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        formats.save(folder / "weights.safetensors", network)
        np.save(
            folder / "image.npy", np.random.default_rng(seed).integers(0, 256, (image_size, image_size, 3), np.uint8)
        )
        files = {"weights": "weights.safetensors", "image": "image.npy", "targets": "targets.json"}
        work = {key: str(folder / file) for key, file in files.items()} | {
            "image_size": image_size,
            "steps": steps,
            "seed": seed,
        }
        for layer in tqdm(layers, desc="layers", unit=" layer"):
            own = work | {"layer": layer, "channels": channels[layer]}
            new = race.rows(own, *race.race(contenders, own, rounds, folder))
            tqdm.write(table(new))
            found += new
            # Written after each layer, since one may take an hour.
            more = {"image_size": image_size, "steps": steps, "rounds": rounds, "channels": channels, "seed": seed}
            more["weights"] = network.provenance | {"sha256": network.digest}
            compare.write(out, found, jax.devices()[0].device_kind, more)
    panels = {row.workload: [r for r in found if r.workload == row.workload] for row in found}
    print(f"wrote {out} and {figures.compare(panels, out.with_suffix('.png'))}")


if __name__ == "__main__":
    command_line.main(visualization)
