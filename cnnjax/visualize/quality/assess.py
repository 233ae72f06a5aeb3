"""All measures of quality at once, into the provenance of the images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from cnnjax import limits
from cnnjax.data.dataset import Split, image_shape
from cnnjax.errors import UserError
from cnnjax.network import Json, Network
from cnnjax.visualize.atlas.statistics import Statistics, collect, read_image
from cnnjax.visualize.image_io import Image
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes
from cnnjax.visualize.quality.activation import compare_activations
from cnnjax.visualize.quality.features import by_layer, channel_means, channel_of, class_places, stack
from cnnjax.visualize.quality.path import path_similarity
from cnnjax.visualize.quality.recognition import Recognition, recognized
from cnnjax.visualize.quality.robustness import robustness
from cnnjax.visualize.stages import Progress

NATURAL = 9
"""How many natural images a drawn one's path is compared with, of its kind and of others."""


def assess(
    images: Sequence[Image],
    network: Network,
    data: Split,
    *,
    class_names: Sequence[str] = (),
    twin: Network | None = None,
    layers: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 32,
    on_progress: Progress | None = None,
) -> list[Image]:
    """The images with an entry "quality" in their provenance, all of one size and of filters or classes.

    network: what they were drawn for; for a recipe with `raw`, see `render.apply_recipe_input`.
    data: natural images to compare with; for images of classes of the network's own size. class_names: of their labels,
    without which no path of a class is measured.
    twin: an independently trained network of the same classes. layers: of the path; by default all with maps.
    seed: chooses the natural images of other kinds. on_progress: called with the images of the data done.

    "quality" has what applies of: `compare_activations` (over_maximum, over_percentile, rank, ranked_channels);
    `recognized` (probability, recognized, twin_probability, recognized_by_twin); `robustness` (shift, rotation, jpeg);
    `path_similarity` (path: a number for each layer, and path_median).
    """
    shown, places = stack(images), by_layer(images)
    limits.check_seed(seed)
    if not len(data):
        raise UserError("there are no images to compare with: give at least one")
    height, width, _ = image_shape(data)
    network = at_image_size(network, (height, width))
    known = layer_shapes(network)
    for layer in layers:
        check_channels(known, layer, 1)
    statistics: dict[str, Statistics] = {}
    if places:
        counts = {layer: known[layer][-1] for layer in places}
        statistics = collect(network, data, counts, batch_size=batch_size, on_progress=on_progress)
    found = compare_activations(images, network, statistics, batch_size=batch_size)
    classes = class_places(images)
    if classes:
        told = recognized([images[place] for place in classes], network, twin, batch_size=batch_size)
        for number, place in enumerate(classes):
            found[place] |= _recognition(told, number)
    for one, kept in zip(found, robustness(images, network, batch_size=batch_size), strict=True):
        one |= kept
    kinds = _kinds(images, data, statistics, class_names)
    if measurable := [place for place, kind in enumerate(kinds) if len(kind) > 1 and len(kind) < len(data)]:
        layers = layers or [layer for layer, shape in known.items() if len(shape) == 3]
        chosen = [kinds[place] for place in measurable]
        paths = _paths(shown[measurable], chosen, network, data, layers, seed, batch_size)
        for place, path in zip(measurable, paths, strict=True):
            found[place] |= path
    return [
        replace(image, provenance=image.provenance | {"quality": quality})
        for image, quality in zip(images, found, strict=True)
    ]


def summarize(images: Sequence[Image]) -> str:
    """What `assess` found of all images together, in a sentence."""
    every = [cast(Mapping[str, Json], image.provenance.get("quality", {})) for image in images]

    def numbers(name: str) -> list[float]:
        return [float(value) for one in every if isinstance(value := one.get(name), bool | int | float)]

    parts = []
    if ratios := numbers("over_maximum"):
        below = sum(ratio < 1 for ratio in ratios)
        parts.append(f"activation over the data's maximum: median {np.median(ratios):.3g}, {below} below 1")
    if ranks := numbers("rank"):
        parts.append(f"{sum(rank == 1 for rank in ranks)} of {len(ranks)} drive their channel most")
    for name, by in (("recognized", "the network"), ("recognized_by_twin", "its twin")):
        if told := numbers(name):
            parts.append(f"{sum(told):.0f} of {len(told)} recognized by {by}")
    for name, what in (("shift", "a shift"), ("rotation", "a rotation"), ("jpeg", "JPEG")):
        if kept := numbers(name):
            parts.append(f"kept under {what}: median {np.median(kept):.2g}")
    if paths := numbers("path_median"):
        parts.append(f"path like that of natural images: median {np.median(paths):.2g}")
    return "; ".join(parts)


def _recognition(told: Recognition, number: int) -> dict[str, Json]:
    found: dict[str, Json] = {
        "probability": float(told.probabilities[number]),
        "recognized": bool(told.likeliest[number]),
    }
    if told.twin_probabilities is not None and told.twin_likeliest is not None:
        found["twin_probability"] = float(told.twin_probabilities[number])
        found["recognized_by_twin"] = bool(told.twin_likeliest[number])
    return found


def _kinds(
    images: Sequence[Image], data: Split, statistics: Mapping[str, Statistics], class_names: Sequence[str]
) -> list[list[int]]:
    """For each image the numbers of natural images of its kind: of its class, or with its channel's highest values."""
    labels: list[str] = []
    if class_names and class_places(images):
        given = (np.asarray(data[number]["label"]) for number in range(len(data)))
        labels = [class_names[int(label.argmax() if label.ndim else label)] for label in given]  # or a distribution
    found = []
    for image in images:
        if image.provenance["kind"] == "class":
            name = image.provenance["class"]
            found.append([number for number, label in enumerate(labels) if label == name])
        else:
            numbers = np.asarray(statistics[str(image.provenance["layer"])].patch_images)[channel_of(image)]
            found.append([int(number) for number in numbers if number >= 0])
    return found


def _paths(
    shown: np.ndarray,
    kinds: Sequence[Sequence[int]],
    network: Network,
    data: Split,
    layers: Sequence[str],
    seed: int,
    batch_size: int,
) -> list[dict[str, Json]]:
    """Each image's path: by layer, and the median of the layers."""
    generator = np.random.default_rng(seed % 2**32)  # NumPy takes no negative seeds
    others = [generator.permutation(np.setdiff1d(np.arange(len(data)), kind))[:NATURAL].tolist() for kind in kinds]
    kinds = [kind[:NATURAL] for kind in kinds]
    needed = sorted({number for group in (*kinds, *others) for number in group})
    natural = channel_means(
        network, np.stack([read_image(data, number) for number in needed]), layers, batch_size=batch_size
    )
    drawn = channel_means(network, shown, layers, batch_size=batch_size)
    place = {number: index for index, number in enumerate(needed)}
    groups = [[[place[number] for number in group] for group in several] for several in (kinds, others)]
    found = path_similarity(drawn, natural, *groups)
    paths = []
    for number in range(len(shown)):
        by_layer = {layer: _number(values[number]) for layer, values in found.items()}
        known = [value for value in by_layer.values() if value is not None]
        paths.append({"path": by_layer, "path_median": float(np.median(known)) if known else None})
    return paths


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
