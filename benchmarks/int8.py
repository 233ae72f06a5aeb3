"""What rounding VGG16's convolutions to int8 changes: every layer's maps of the photograph, and drawn filters.

    python benchmarks/int8.py                                      # against --weights imagenet-notop, downloaded once
    python benchmarks/int8.py --weights FILE.h5 --layers block5_conv3 --steps 100
    python benchmarks/int8.py --layers block1_conv2 block2_conv2 block3_conv3 block4_conv3 block5_conv3

The first prints, for each convolution, the norm of the difference of the maps after relu over the norm of the float32
maps, and writes both into benchmarks/results/int8.json. With --layers the article's eight filters of each layer are
drawn twice from the same noise, by the float32 and by the rounded network, into a sheet: each filter's float32 picture
stands above its int8 picture.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax import Network, figures, files, formats, visualize
from cnnjax.cli import command_line
from cnnjax.data import example_image
from cnnjax.visualize import Image, recipes

COLUMNS = 8


def int8(
    *,
    weights: str = "imagenet-notop",
    image_size: int = 224,
    layers: tuple[str, ...] = (),
    recipe: str = "filters",
    steps: int = 0,
    filters_image_size: int = 96,
    out: Path = Path("benchmarks/results/int8.json"),
) -> None:
    """Compare the rounded network with the one in float32.

    Args:
        weights: VGG16 in float32: a file, or a name of published weights.
        image_size: Height and width of the photograph in pixels.
        layers: Layers of which eight filters are drawn by both networks.
        recipe: How they are drawn.
        steps: Of each picture; 0 takes the recipe's.
        filters_image_size: Height and width of the pictures in pixels.
        out: The file for the results; a sheet of filters goes beside it.
    """
    exact, rounded = formats.resolve(weights, include_top=False), formats.load_bundled("vgg16", include_top=False)
    image = jnp.asarray(example_image.chelsea_face(image_size))
    change = {name: float(value) for name, value in _relative_changes(exact, rounded, image).items()}
    results = {"image_size": image_size, "maps": change, "digests": [exact.digest, rounded.digest]}
    print(f"{'layer':14} {'change of the maps':>18}")
    for name, value in change.items():
        print(f"{name:14} {value:18.2%}")
    if layers:
        drawn = {
            layer: [_draw(one, layer, recipe, steps, filters_image_size) for one in (exact, rounded)]
            for layer in layers
        }
        results["filters"] = {layer: _agreement(exact, layer, *pair) for layer, pair in drawn.items()}
        print(f"\n{'layer':14} {'int8 picture / float32 picture, activation in the float32 network':>10}")
        for layer, row in results["filters"].items():
            shown = ("  dead" if value is None else f"{value:6.2f}" for value in row["ratio"])
            print(f"{layer:14} " + " ".join(shown))
        print(f"wrote {_sheet(drawn, out.with_suffix('.png'))}")
    files.write_json(out, results)
    print(f"wrote {out}")


@jax.jit
def _relative_changes(
    exact: Network, rounded: Network, image: Float[Array, "height width 3"]
) -> dict[str, Float[Array, ""]]:
    """For each convolution ‖rounded - exact‖ / ‖exact‖ of its maps."""
    (_, first), (_, second) = exact(image[None]), rounded(image[None])
    norm = jnp.linalg.norm
    convolutions = {name: maps for name, maps in first.items() if "_conv" in name}
    return {name: norm((second[name] - maps).ravel()) / norm(maps.ravel()) for name, maps in convolutions.items()}


def _draw(network: Network, layer: str, recipe: str, steps: int, size: int) -> list[Image]:
    channels = recipes.filters_of(layer, visualize.layer_shapes(network)[layer][-1])
    return visualize.render_filters(
        network, layer, channels, recipe=recipe, steps=steps or None, image_size=size, batch_size=COLUMNS
    )


def _agreement(
    exact: Network, layer: str, first: list[Image], second: list[Image]
) -> dict[str, list[int] | list[float | None]]:
    """How strongly the float32 network's filters answer to the pictures that the rounded network drew.

    The ratio is None for a filter that stayed silent on the float32 network's own picture.
    """
    network = visualize.at_image_size(exact, first[0].pixels.shape[:2])
    channels = [image.provenance["channel"] for image in first]

    @jax.jit
    def means(network: Network, images: Float[Array, "n height width 3"]) -> Float[Array, " n"]:
        maps = network(images)[1][layer].mean(axis=(1, 2))
        return maps[jnp.arange(len(channels)), jnp.asarray(channels)]

    own, other = (
        np.asarray(means(network, jnp.asarray(np.stack([image.pixels for image in images]), jnp.float32) / 255))
        for images in (first, second)
    )
    ratios = [float(b / a) if a > 0 else None for a, b in zip(own, other, strict=True)]
    return {"channels": channels, "float32": own.tolist(), "ratio": ratios}


def _sheet(drawn: dict[str, list[list[Image]]], path: Path) -> Path:
    """For each layer a row of float32 pictures above a row of int8 pictures."""
    images, titles = [], []
    for layer, pair in drawn.items():
        for kind, row in zip(("float32", "int8"), pair, strict=True):
            images += [image.pixels for image in row]
            titles += [f"{layer} {image.provenance['channel']}, {kind}" for image in row]
    return figures.image_grid(images, titles, path, columns=COLUMNS, width=1400)


if __name__ == "__main__":
    command_line.main(int8)
