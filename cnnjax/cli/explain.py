"""The command `explain`: what in an image speaks for a class, by several methods."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from cnnjax import figures, limits
from cnnjax import visualize as visualization
from cnnjax.classify import find_images
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.data import example_image, imagenet
from cnnjax.errors import UserError, unknown
from cnnjax.files import atomic_write, make_folder
from cnnjax.network import Network
from cnnjax.printable import printable
from cnnjax.visualize import METHODS

_READING = Reading()
MOST = 12
"""Images in one figure."""


def explain(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    weights: str = "vgg16",
    reading: Flags = _READING,
    methods: tuple[str, ...] = tuple(METHODS),
    layer: str = "",
    class_name: str = "",
    seed: int = 0,
    batch_size: int = 16,
    out: Path = Path("runs/explain"),
) -> None:
    """Show what in images speaks for a class, as heat maps of several methods.

    Args:
        images: Image files, or folders of them; none uses the photograph of a cat that is part of the package.
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        methods: Names of the methods.
        layer: The layer whose maps grad-cam, grad-cam++ and layer-cam use. Empty uses the last one with
            maps, before pooling.
        class_name: Name of the class. Empty uses the most probable one of each image.
        seed: Seed of the noise of smooth-grad and the masks of rise.
        batch_size: Images, noisy or masked copies of them, at a time.
        out: Folder for the figure of all methods, explain.png, and a file for each heat map.
    """
    _check(methods, batch_size, layer)
    limits.check_seed(seed, "--seed ")
    files = find_images(images) if images else []
    if len(files) > MOST:
        raise UserError(f"{len(files)} images are too many for one figure: name {MOST} at most")
    network = load(weights, reading)
    _check_network(network, layer, class_name)
    names, shown = labels(files), _read(network, files)
    make_folder(out)
    odds = np.asarray(jax.jit(Network.probabilities)(network, shown))
    numbers = odds.argmax(axis=1)
    if class_name:
        numbers[:] = network.class_names.index(class_name)
    titles = [
        f"{name}: {network.class_names[number]} {odds[i, number]:.1%}"
        for i, (name, number) in enumerate(zip(names, numbers, strict=True))
    ]
    print("\n".join(map(printable, titles)))
    key, maps = jax.random.key(seed), {}
    for method in tqdm(methods, unit=" methods", delay=1.0, disable=None):
        found = visualization.attribute(
            network, shown, method, numbers, layer=layer or None, key=key, batch_size=batch_size
        )
        if method == "integrated-gradients":
            gaps, differences = visualization.completeness_gap(network, shown, found, numbers, batch_size=batch_size)
            for name, gap, difference in zip(names, gaps, differences, strict=True):
                tqdm.write(
                    f"{method}: {printable(name)} differs from black by {difference:.3g}; the sum of its map "
                    f"is {gap:+.2g} off"
                )
        if not METHODS[method].from_zero:
            found = found - found.min(axis=(1, 2), keepdims=True)
        maps[method] = list(visualization.to_display(found))
    for method, found in maps.items():
        for name, image, heat in zip(_file_names(names), shown, found, strict=True):
            _write(figures.overlay(image, heat), out / f"{name}-{method}.png")
    sheet = figures.attribution_sheet(list(shown), maps, titles, out / "explain.png")
    print(printable(f"wrote {sheet} and each heat map beside it ({len(names)} × {len(maps)} PNG files)"))


def _check(methods: tuple[str, ...], batch_size: int, layer: str) -> None:
    """Raises UserError before anything is read."""
    if not methods:
        raise UserError(f"no method was named: choose some of {', '.join(METHODS)}")
    for method in methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    takers = [name for name, method in METHODS.items() if method.takes_layer]
    if layer and not set(takers) & set(methods):
        raise UserError(f"--layer has no effect on {', '.join(methods)}: add {' or '.join(takers)}, or leave it out")
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")


def _check_network(network: Network, layer: str, class_name: str) -> None:
    """Raises UserError for what the network does not have."""
    if not network.class_names:
        raise UserError("these weights have no classes, only convolutions: give weights with their dense layers")
    if class_name and class_name not in network.class_names:
        raise unknown("class", class_name, network.class_names)
    if layer:
        visualization.check_channels(visualization.layer_shapes(network), layer, 1, maps=True)


def labels(files: Sequence[Path]) -> list[str]:
    """What each file is called in captions: the shortest end of its path that no other file has, as in cat/1.

    Without the ending of the name, unless files differ in it alone.
    """
    paths = [[one.parts for one in (file.with_suffix("") if file.name else file, file)] for file in files]
    deepest = max((len(file.parts) for file in files), default=0)
    ends = [[parts[-k:] for parts in (some[0], some[1]) for k in range(1, deepest + 1)] for some in paths]
    times = Counter(end for some in ends for end in set(some))
    chosen = [next((end for end in some if times[end] == 1), some[0]) for some in ends]
    return ["/".join(end).lstrip("/") for end in chosen] or ["chelsea"]


def _file_names(names: Sequence[str]) -> list[str]:
    """The captions' names as beginnings of files' names, no two alike."""
    found: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.-]+", "-", name) or "image"
        numbered = (f"{stem}-{number}" for number in itertools.count(2))  # a file may be named a-2 itself
        found.append(next(one for one in itertools.chain((stem,), numbered) if one not in found))
    return found


def _read(network: Network, files: list[Path]) -> np.ndarray:
    """The images as the network takes them, in [0, 1]."""
    crop = imagenet.crop(network.class_names)
    if files:
        shown = np.stack([example_image.load_image(file, network.image_size, crop) for file in files])
    else:
        shown = example_image.chelsea_face(network.image_size)[None]
    return example_image.in_channels(shown, network.channels)


def _write(pixels: np.ndarray, path: Path) -> None:
    image = Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    atomic_write(path, lambda temporary: image.save(temporary, "png"))
