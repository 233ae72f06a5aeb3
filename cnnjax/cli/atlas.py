"""The command `atlas`: every filter of a network on one page."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from cnnjax import data as sources
from cnnjax import procedural
from cnnjax.article.stage_cache import duration
from cnnjax.classify import find_images
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.data.dataset import image_shape
from cnnjax.data.plain_images import PlainImages
from cnnjax.errors import UserError
from cnnjax.files import make_folder
from cnnjax.network import Json, Network
from cnnjax.printable import printable
from cnnjax.train import run_dir
from cnnjax.visualize import atlas as visualization

_READING = Reading()


def atlas(
    *,
    weights: str = "vgg16-mini",
    reading: Flags = _READING,
    layers: tuple[str, ...] = (),
    filters_per_layer: int | None = None,
    images: str = "procedural",
    images_per_class: int = 100,
    images_size: int | None = None,
    recipe: str = visualization.RECIPE,
    steps: int | None = None,
    image_size: int | None = None,
    include_top: bool = True,
    batch_size: int = 16,
    seed: int = 0,
    fresh: bool = False,
    out: Path = Path("runs/atlas"),
) -> None:
    """Draw every filter of a network beside the image patches that activate it most.

    The patches are from the images of a data set. The page is OUT/index.html.

    A run that was interrupted continues when it is started again.

    Args:
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        layers: Names of the layers. Empty uses all that have maps and parameters.
        filters_per_layer: How many filters of each layer are drawn, from the first one on; by default all.
        images: What filters are compared on: procedural (rendered), folder:PATH (all image files in and below a
            folder), tfds:NAME or hub:NAME.
        images_per_class: How many images of each class, except of folder:PATH.
        images_size: Size in pixels at which they are shown to the network, for networks that take any size. By default
            the network's.
        recipe: How pictures are optimized, as for the command visualize.
        steps: Steps for each picture; by default the recipe's.
        image_size: Size of all pictures in pixels, for networks that take any size. By default twice a layer's
            receptive field, but 64 to 128 pixels.
        include_top: Whether to read the dense layers of the weights, where there are any.
        batch_size: Pictures, and images, at a time.
        seed: Seed of the noise that the optimization starts from.
        fresh: Compute everything again.
        out: Folder for the page, the table and the pictures.
    """
    network = load(weights, reading, None if include_top else False)
    if images_size is not None and images_size < 1:
        raise UserError(f"images_size={images_size} must be at least 1")
    size = network.image_size if images_size is None else (images_size, images_size)
    with run_dir.withdrawn_if_refused(out), Bars() as bars:
        make_folder(out)
        found = visualization.build(
            network,
            find_data(network, images, images_per_class, size, seed),
            out,
            layers=layers,
            filters_per_layer=filters_per_layer,
            recipe=recipe,
            steps=steps,
            image_size=image_size,
            seed=seed,
            batch_size=batch_size,
            fresh=fresh,
            watch=bars,
        )
    print(describe(found.summary))
    print(printable(f"wrote {found.page} and the table {out / 'filters.jsonl'}"))


def find_data(
    network: Network, images: str, per_class: int, image_size: tuple[int, int], seed: int = 0
) -> visualization.Data:
    """The images that a string names, see `atlas`, none of which a network was trained on if they are procedural.

    Raises UserError as the sources of `cnnjax.data` do, for less than one image of each class, and for a data set whose
    images the network does not take.
    """
    if per_class < 1:
        raise UserError(f"{per_class} images of each class leave nothing to compare with: give 1 or more")
    if images.startswith("folder:"):
        files = find_images([Path(os.path.expanduser(images.removeprefix("folder:")))])
        return visualization.Data(
            PlainImages(files, image_size, network.channels),
            images,
            lambda number: f"{files[number].parent.name}/{files[number].name}",
        )
    if images == "procedural":
        if image_size[0] != image_size[1]:
            raise UserError(
                f"rendered images are square, and the network takes {image_size[0]}×{image_size[1]}: compare with the "
                "images of a folder (folder:PATH)"
            )
        known = set(network.class_names) <= set(procedural.KNOWN) and len(network.class_names) > 1
        names = network.class_names if known else procedural.CLASSES
        dataset = sources.procedural.load(names, image_size=image_size, per_class=1, valid=per_class, test=1, seed=seed)
        split = dataset.valid
    else:
        dataset = sources.load(images, image_size=image_size, per_class=per_class, valid=1, test=1, adapt=True)
        split = dataset.train
    channels = image_shape(split)[2]
    if channels != network.channels:
        raise UserError(
            f"the images of {images} have {channels} channels, and the network takes {network.channels}: compare with "
            "the images of a folder (folder:PATH), which are converted"
        )
    caption = f"{images}, {per_class} a class"
    return visualization.Data(split, caption, lambda number: _label(split, dataset, number), dataset.class_names)


def _label(split: sources.Split, dataset: sources.Dataset, number: int) -> str:
    return dataset.class_names[int(split[number]["label"])]


class Bars:
    """A progress bar for each part of the work, with its rate; each is closed when the next one starts.

    Where there is no terminal, a line says when a part is done.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.told = ""
        self.begun = 0.0

    def __call__(self, title: str, total: int, unit: str) -> Callable[[int], object]:
        self.close()
        self.bar = tqdm(total=total, desc=title, unit=f" {unit}", delay=0.5, disable=None)
        self.told, self.begun = f"{title}: {total:,} {unit}", time.perf_counter()
        return self.bar.update

    def close(self) -> None:
        """Finish the bar that is there."""
        if self.bar is None:
            return
        self.bar.close()
        if self.bar.disable:
            print(f"{self.told} in {duration(time.perf_counter() - self.begun)}", flush=True)
        self.bar = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self.bar is not None:
            self.bar.close()


def describe(summary: dict[str, Json]) -> str:
    """The summary of an atlas in a sentence."""
    states = ", ".join(f"{summary[name]} {name}" for name in visualization.STATES if summary[name])
    sentence = f"{summary['filters']} filters: {states}"
    ratio = summary["median_ratio"]
    if isinstance(ratio, float):
        sentence += f"; activation by the pictures over the 99.9th percentile on data: median {ratio:.3g}"
    return sentence
