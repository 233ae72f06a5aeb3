"""Which attribution method tells the truth: every method on networks and rendered images whose right answers are known.

    python benchmarks/attribution.py                                         # the package's network; hours on two cores
    python benchmarks/attribution.py --networks runs/a runs/b --classes cat dog --per-class 32
    python benchmarks/attribution.py --per-class 2 --seeds 0 --methods gradient grad-cam --cascade-images 1

The renderer gives exact masks of animals and of their parts, and the same image without a part: so what is really
important to a network is measured by removing it (FunnyBirds' idea, ICCV 2023). The class that is explained is the true
one. The columns, means over images, ± standard deviation of the seeds' means:

pointing     the largest value lies on the animal (1 is best; the animal's share of the image is chance)
energy       share of the positive values that lies on the animal
parts        Spearman's rank correlation of the parts' sums with the fall of the logit when the part is removed
insertion    area under the class's probability while a blurred image becomes sharp, largest values first
deletion     the same while the image is blurred (0 is best)
top, all     Spearman's rank correlation of the map with itself after the top layer, or all layers, were drawn anew:
             a map that explains the network does not keep its ranks (0 is best; 1 explains nothing)

"random" is noise in place of a map, "object" the animal's own mask. No column stands alone: insertion and deletion show
networks images that they were not trained on; a mask only says where the animal is, not what the network looks at.
Writes benchmarks/results/attribution.json.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import compare
import jax
import numpy as np
from tqdm import tqdm

from cnnjax import formats, procedural, visualize
from cnnjax.cli import command_line
from cnnjax.errors import UserError, unknown
from cnnjax.network import Network
from cnnjax.visualize import METHODS
from cnnjax.visualize import attribution_metrics as metrics

METRICS = ("pointing", "energy", "parts", "insertion", "deletion", "top", "all")
CONTROLS = ("random", "object")
OPTIONS: dict[str, dict[str, int]] = {"rise": {"samples": 1000}, "smooth-grad": {"samples": 25}}
SUBJECT = "subject"


class Scenes(NamedTuple):
    """Rendered animals with all that is known of them.

    images: in [0, 1]. masks: of the whole animal. part_masks, without: of each part, and the image without it.
    """

    images: np.ndarray
    classes: list[str]
    masks: np.ndarray
    part_masks: np.ndarray
    without: np.ndarray


@dataclass(frozen=True)
class Score:
    """One method's means on one network. spread: the standard deviation of the seeds' means; missing is None."""

    network: str
    method: str
    metric: str
    mean: float | None
    spread: float | None


def scenes(classes: Sequence[str], per_class: int, image_size: int, seed: int, version: int | None = None) -> Scenes:
    """`per_class` images of each class. version: of the renderer; None is its own default.

    Raises UserError for a class that has no parts, or classes that have different numbers of them.
    """
    options = {} if version is None else {"version": version}
    rows = []
    for number, name in enumerate(classes):
        parts = procedural.parts(name)
        if not parts:
            raise UserError(f"class {name!r} has no parts that could be removed: choose animals such as cat and dog")
        if parts != procedural.parts(classes[0]):
            raise UserError(f"{name} and {classes[0]} have different parts: score them apart")
        keys = jax.random.split(jax.random.key(1000 * seed + number), per_class)
        draw = partial(procedural.render, name, keys, image_size, **options)
        masks = procedural.render_masks(name, keys, image_size, **options)
        rows.append(
            Scenes(
                _unit(draw()),
                [name] * per_class,
                np.asarray(masks[SUBJECT]) > 0.5,
                np.stack([np.asarray(masks[part]) > 0.5 for part in parts], axis=1),
                np.stack([_unit(draw(without=(part,))) for part in parts], axis=1),
            )
        )
    images, names, *arrays = zip(*rows, strict=True)
    return Scenes(np.concatenate(images), sum(names, []), *map(np.concatenate, arrays))


def score(
    network: Network,
    found: Scenes,
    method: str,
    *,
    importance: np.ndarray,
    key: jax.Array,
    layer: str = "",
    cascade_images: int,
    batch_size: int,
) -> dict[str, float]:
    """A method's value of each metric: the mean over the images."""
    attribution = _attribution(method, layer, found.masks, key, batch_size)
    classes = _numbers(network, found)
    maps = attribution(network, found.images, classes)
    curves = {
        name: function(network, found.images, maps, classes, batch_size=batch_size).area.mean()
        for name, function in (("insertion", metrics.insertion), ("deletion", metrics.deletion))
    }
    correlation = metrics.part_correlation(maps, found.part_masks, importance)
    values = {
        "pointing": metrics.pointing_game(maps, found.masks).mean(),
        "energy": metrics.energy_in_mask(maps, found.masks).mean(),
        # Of images that show one part at most nothing can be said.
        "parts": correlation[~np.isnan(correlation)].mean() if not np.isnan(correlation).all() else np.nan,
        **curves,
    }
    if method not in CONTROLS and cascade_images:
        layers = metrics.layers_from_top(network)
        some = np.linspace(0, len(maps) - 1, min(cascade_images, len(maps))).astype(int)
        cascade = metrics.cascading_randomization(
            network, found.images[some], attribution, classes[some], key=key, layers=(layers[0], layers[-1])
        )
        values |= dict(zip(("top", "all"), cascade.rank_correlation.mean(axis=1), strict=True))
    return {name: float(value) for name, value in values.items()}


def attribution(
    *,
    networks: tuple[str, ...] = ("",),
    methods: tuple[str, ...] = tuple(METHODS),
    layer: str = "",
    classes: tuple[str, ...] = ("cat", "dog"),
    per_class: int = 16,
    cascade_images: int = 4,
    seeds: tuple[int, ...] = (0, 1, 2),
    version: int | None = None,
    batch_size: int = 32,
    out: Path = Path("benchmarks/results/attribution.json"),
) -> None:
    """Score attribution methods on rendered animals, whose masks and parts are known.

    Args:
        networks: Weights files or folders of runs. An empty one is the VGG16 that is part of the package.
        methods: Which methods.
        layer: The layer of grad-cam, grad-cam++ and layer-cam. Empty uses the last one with maps,
            before pooling.
        classes: Which classes of animals, which the networks must know.
        per_class: Images of each class and seed.
        cascade_images: Of how many images the maps are computed again with layers drawn anew; 0 leaves that out.
        seeds: Of the images, the noise and the layers that are drawn anew.
        version: Of the renderer, best that which the networks were trained on. By default the newest.
        batch_size: Images that a network is given at a time.
        out: The file for the results.
    """
    for method in methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    if not (networks and methods and classes and seeds) or per_class < 1:
        raise UserError("there is nothing to score: give --networks, --methods, --classes, --seeds and --per-class")
    found: dict[tuple[str, str, str], list[float]] = {}
    accuracy: dict[str, list[float]] = {}
    options: dict[str, Any] = {"layer": layer, "cascade_images": cascade_images, "batch_size": batch_size}
    with tqdm(total=len(networks) * len(seeds) * (len(methods) + len(CONTROLS)), dynamic_ncols=True) as bar:
        for weights in networks:
            network, name = _network(weights, classes), weights or "package"
            for seed in seeds:
                bar.set_description("images")
                some = scenes(classes, per_class, network.image_size[0], seed, version)
                accuracy.setdefault(name, []).append(_recognized(network, some, batch_size))
                importance = _importance(network, some, batch_size)
                for method in (*methods, *CONTROLS):
                    bar.set_description(f"{name}, {method}")
                    values = score(network, some, method, importance=importance, key=jax.random.key(seed), **options)
                    for metric, value in values.items():
                        found.setdefault((name, method, metric), []).append(value)
                    bar.update()
    rows = [Score(*which, *_mean_and_spread(values)) for which, values in found.items()]
    print(table(rows))
    print("\n".join(f"{name}: {np.mean(share):.1%} of the images recognized" for name, share in accuracy.items()))
    about = {
        "layer": layer,
        "classes": classes,
        "per_class": per_class,
        "cascade_images": cascade_images,
        "seeds": seeds,
    }
    compare.write(out, rows, jax.devices()[0].device_kind, about | {"version": version, "accuracy": accuracy})
    print(f"wrote {out}")


def table(rows: Sequence[Score]) -> str:
    """Methods × metrics, network after network, in aligned columns."""
    cells = {(row.network, row.method, row.metric): _cell(row) for row in rows}
    lines = [
        (network, method, *(cells.get((network, method, metric), "") for metric in METRICS))
        for network, method in dict.fromkeys((row.network, row.method) for row in rows)
    ]
    return compare.aligned(("network", "method", *METRICS), lines)


def _network(weights: str, classes: Sequence[str]) -> Network:
    """Raises UserError for a network that does not know the classes, or takes images that are not square."""
    network, name = formats.resolve(weights), weights or "the package's network"
    for wanted in classes:
        if wanted not in network.class_names:
            raise unknown(f"class of {name}", wanted, network.class_names)
    if network.image_size[0] != network.image_size[1]:
        raise UserError(f"{name} takes images of {network.image_size}: the renderer's are square")
    return network


def _numbers(network: Network, found: Scenes) -> np.ndarray:
    return np.array([network.class_names.index(name) for name in found.classes])


def _recognized(network: Network, found: Scenes, batch_size: int) -> float:
    """The share of the images whose likeliest class is the true one."""
    likeliest = visualize.attribution.likeliest(network, found.images, batch_size)
    return float((likeliest == _numbers(network, found)).mean())


def _importance(network: Network, found: Scenes, batch_size: int) -> np.ndarray:
    """How far the logit of the true class falls without each part."""
    numbers = _numbers(network, found)
    return metrics.removal_importance(network, found.images, found.without, numbers, batch_size=batch_size)


def _attribution(
    method: str, layer: str, masks: np.ndarray, key: jax.Array, batch_size: int
) -> Callable[[Network, np.ndarray, np.ndarray], np.ndarray]:
    """(network, images, classes) -> maps."""
    if method == "random":
        return lambda network, images, classes: np.asarray(jax.random.uniform(key, images.shape[:3]))
    if method == "object":
        return lambda network, images, classes: masks.astype(np.float32)
    chosen = METHODS[method]
    options = OPTIONS.get(method, {}) | ({"key": key} if chosen.takes_key else {})
    options |= {"layer": layer or None} if chosen.takes_layer else {}
    return partial(chosen.function, batch_size=batch_size, **options)


def _mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return None, None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _cell(row: Score) -> str:
    if row.mean is None:
        return "–"
    return f"{row.mean:.2f}" + ("" if row.spread is None else f" ± {row.spread:.2f}")


def _unit(images: jax.Array) -> np.ndarray:
    return np.asarray(images, np.float32) / 255


if __name__ == "__main__":
    command_line.main(attribution)
