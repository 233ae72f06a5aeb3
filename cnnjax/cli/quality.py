"""The part of the command `visualize` that measures how good its images are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from tqdm import tqdm

from cnnjax import formats
from cnnjax.cli.atlas import find_data
from cnnjax.errors import UserError
from cnnjax.image_size import to_size
from cnnjax.network import Json, Network
from cnnjax.visualize import Image, Recipe, quality
from cnnjax.visualize.atlas import Data
from cnnjax.visualize.render import apply_recipe_input

IMAGES, PER_CLASS = "procedural", 20
"""What is compared with by default."""


class Flags(NamedTuple):
    """How the quality of images is measured, as the command line has it; see `visualize`."""

    measured: bool
    images: str
    per_class: int
    twin: str = ""


class Comparison(NamedTuple):
    """What images are compared with: those of a data set, whose labels are `class_names`, and another network."""

    data: Data
    class_names: tuple[str, ...]
    twin: Network | None


def prepare(network: Network, image_size: int | tuple[int, int] | None, flags: Flags) -> Comparison | None:
    """What is needed to measure, or None if nothing is to be measured. To be called before images are drawn.

    Raises UserError for images or weights that cannot be read, and for flags that would have no effect.
    """
    if not flags.measured and not flags.twin:
        if (flags.images, flags.per_class) != (IMAGES, PER_CLASS):
            raise UserError("--quality-images and --quality-per-class have no effect without --quality: add it")
        return None
    twin = formats.resolve(flags.twin) if flags.twin else None
    data = find_data(network, flags.images, flags.per_class, to_size(image_size or network.image_size))
    # The labels of the embedded data set are the network's classes, where it has these.
    return Comparison(data, network.class_names if flags.images == IMAGES else (), twin)


def measure(drawn: Sequence[Image], network: Network, recipe: Recipe, comparison: Comparison) -> list[Image]:
    """The images with their quality in their provenance."""
    data, names, twin = comparison
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
