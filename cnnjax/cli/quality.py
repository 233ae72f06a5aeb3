"""The part of the command `visualize` that measures how good its images are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from tqdm import tqdm

from cnnjax import formats
from cnnjax.cli.atlas import find_data
from cnnjax.errors import UserError
from cnnjax.image_size import to_size
from cnnjax.network import Json, Network
from cnnjax.visualize import Image, Recipe, at_image_size, quality
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
    """What images are compared with: those of a data set, and another network."""

    data: Data
    twin: Network | None


def prepare(
    network: Network, image_size: int | tuple[int, int] | None, flags: Flags, classes: Sequence[str] = ()
) -> Comparison | None:
    """What is needed to measure, or None if nothing is to be measured. To be called before images are drawn.

    classes: that images are drawn for. Raises UserError for images or weights that cannot be read or do not fit, and
    for flags that would have no effect.
    """
    if not flags.measured and not flags.twin:
        if (flags.images, flags.per_class) != (IMAGES, PER_CLASS):
            raise UserError("--quality-images and --quality-per-class have no effect without --quality: add it")
        return None
    size = to_size(image_size or network.image_size)
    twin = _twin(flags.twin, size, classes) if flags.twin else None
    return Comparison(find_data(network, flags.images, flags.per_class, size), twin)


def _twin(name: str, image_size: tuple[int, int], classes: Sequence[str]) -> Network:
    """Raises UserError for a network that cannot judge images of this size and these classes."""
    twin = formats.resolve(name)
    found = at_image_size(twin, image_size)
    if not found.class_names:
        (height, width), (own_height, own_width) = image_size, twin.image_size
        raise UserError(
            f"--twin {name} classifies images of {own_height}×{own_width}, and those drawn have {height}×{width}: give "
            "a network of the same image size"
            if twin.class_names
            else f"--twin {name} has no classes, only convolutions: give weights with their dense layers"
        )
    if missing := [one for one in classes if one not in found.class_names]:
        raise UserError(f"--twin {name} does not know the class {missing[0]!r}: give a network of the same classes")
    return twin


def measure(drawn: Sequence[Image], network: Network, recipe: Recipe, comparison: Comparison) -> list[Image]:
    """The images with their quality in their provenance."""
    data, twin = comparison
    with tqdm(total=len(data.images), unit=" images", desc="quality", delay=0.5, disable=None) as bar:
        found = quality.assess(
            drawn,
            apply_recipe_input(network, recipe),
            data.images,
            class_names=data.class_names,
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
        parts.append(f"{ratio:.3g} × the data's maximum")
        if measured["rank"] is not None:  # where the channel does not vary on the data, there is none
            parts[-1] += f", rank {measured['rank']} of {measured['ranked_channels']}"
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
