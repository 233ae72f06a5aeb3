"""The part of the command `visualize` that measures how good its images are."""

from collections.abc import Mapping, Sequence
from typing import cast

from tqdm import tqdm

from cnnjax.cli.atlas import find_data
from cnnjax.network import Json, Network
from cnnjax.visualize import Image, Recipe, quality
from cnnjax.visualize.render import apply_recipe_input


def measure(
    drawn: Sequence[Image],
    network: Network,
    recipe: Recipe,
    images: str,
    per_class: int,
    twin: Network | None = None,
) -> list[Image]:
    """The images with their quality in their provenance; images: what they are compared with, as for `atlas`."""
    height, width = drawn[0].pixels.shape[:2]
    data = find_data(network, images, per_class, (height, width))
    # The labels of the embedded data set are the network's classes, where it has these.
    names = network.class_names if images == "procedural" else ()
    with tqdm(total=len(data.images), unit=" images", desc="quality", delay=0.5, disable=None) as bar:
        found = quality.assess(
            drawn,
            apply_recipe_input(network, recipe),
            data.images,
            class_names=names,
            twin=twin,
            on_progress=bar.update,
        )
    print(f"compared with {len(data.images)} images ({data.source}): {quality.summarize(found)}")
    return found


def describe(image: Image) -> str:
    """What was measured of one image, as the end of a line; empty if nothing was."""
    measured = cast(Mapping[str, Json], image.provenance.get("quality", {}))
    parts = []
    if isinstance(ratio := measured.get("over_maximum"), float):
        parts.append(f"{ratio:.3g} × the data's maximum, rank {measured['rank']} of {measured['ranked_channels']}")
    if "recognized" in measured:
        parts.append(f"{'' if measured['recognized'] else 'not '}recognized")
    if "recognized_by_twin" in measured:
        parts.append(f"{'' if measured['recognized_by_twin'] else 'not '}by the twin")
    kept = [
        f"{name} {value:.2g}"
        for name, key in (("shift", "shift"), ("rotation", "rotation"), ("JPEG", "jpeg"))
        if isinstance(value := measured.get(key), float)
    ]
    if kept:
        parts.append("kept under " + ", ".join(kept))
    if isinstance(path := measured.get("path_median"), float):
        parts.append(f"path {path:.2g}")
    return "".join(f"; {part}" for part in parts)
