"""The work of the article's stages: each leaves its figures in a folder and gives its numbers as plain JSON data.

A section's result goes into the page as it is: `figures` maps the page's slots to paths relative to the run's folder.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from cnnjax import analysis, data, figures, formats, models
from cnnjax.article import captions, worked_examples
from cnnjax.article.stage_cache import Result, Stages
from cnnjax.cli.config import Config
from cnnjax.data import example_image
from cnnjax.data.augment import augment
from cnnjax.train import loop
from cnnjax.visualize import feature_maps, image_io, layers, recipes, render


def lessons(folder: Path, photo: Callable[[int], np.ndarray]) -> Result:
    worked = worked_examples.every(photo(32))
    graph, params = abstract(models.SmallCNN)
    shapes = models.layer_shapes(graph, params, (150, 150, 3))
    made = figures.lessons(worked, folder)
    made["overview"] = figures.architecture(shapes, folder / "overview.png", (150, 150, 3))
    return {"numbers": worked_examples.numbers(worked), "figures": _paths(folder, made)}


def train(folder: Path, chosen: Config, dataset: data.Dataset) -> Result:
    result = loop.fit(chosen, dataset, folder / "run", resume=True)
    return {"history": result.history, "test": result.test, "digest": result.network.digest}


def small(
    folder: Path, stages: Stages, chosen: Config, dataset: data.Dataset, recipe: recipes.Recipe, seed: int
) -> Result:
    """The data, augmented samples, the curves, the network's table, and what it takes for a cat and for a dog."""
    network = formats.load(folder.parent / "augmented" / "run" / "weights.safetensors")
    names, train = network.class_names, dataset.train
    few = np.concatenate([np.flatnonzero(train.labels == c)[:8] for c in range(len(names))])
    original = train.images[few[0]]
    keys = jax.random.split(jax.random.key(seed), 8)
    samples = augment(keys, jnp.asarray(np.repeat(original[None], 8, 0), jnp.float32) / 255, chosen.augment)
    plain, augmented = stages.results["plain"]["history"], stages.results["augmented"]["history"]
    draw = functools.partial(render.classes, network, names, recipes.at_side(recipe, network.side), seed)
    drawn = _draw(folder, "cat and dog", 2 * recipe.steps, draw)
    shapes = models.layer_shapes(network.graph, network.params, (network.side, network.side, 3))
    made = {
        "dataset": figures.picture_grid(
            train.images[few], [names[train.labels[i]] for i in few], folder / "dataset.png", columns=8
        ),
        "augmented": figures.augmented_samples(original, samples, folder / "augmented.png"),
        "curves-plain": figures.curves({"without augmentation": plain}, folder / "curves-plain.png"),
        "curves": figures.curves(
            {"without augmentation": plain, "with augmentation": augmented}, folder / "curves.png"
        ),
        "small-network": figures.architecture(shapes, folder / "network.png", (network.side, network.side, 3)),
        "cat-dog": figures.picture_grid([p.image for p in drawn], names, folder / "classes.png", columns=2, width=500),
    }
    return {
        "figures": _paths(folder, made),
        "cat_dog": _with_choice(network, drawn),
        "network": table(network.graph, network.params, network.side),
        "data": {
            "source": chosen.data.source,
            "class_names": list(names),
            "train": len(train.labels),
            "valid": len(dataset.valid.labels),
            "test": stages.results["augmented"]["test"]["count"],
            "side": chosen.data.side,
            "skipped": list(dataset.skipped),
        },
    }


def maps(folder: Path, vgg: formats.Network, photo: Callable[[int], np.ndarray], own: bool) -> Result:
    """The article shows a 150² photograph to the convolutions alone; the whole network judges it at its own side."""
    shown = photo(150)
    layer, channel = recipes.FEATURE_MAP_ALONE
    channel = min(channel, layers.shapes(vgg)[layer][-1] - 1)
    maps = feature_maps.compute(vgg, shown, recipes.FEATURE_MAPS)
    alone = feature_maps.compute(vgg, shown, [layer], [channel])
    base = layers.at_side(vgg, 150)
    raw = jax.jit(lambda params, x: {n: base.forward(params, x)[1][n][0] for n in recipes.FEATURE_MAPS})(
        vgg.params, shown[None]
    )
    chances = _probabilities(vgg, photo(vgg.side)[None])[0]
    ranked = sorted(zip(vgg.class_names, chances, strict=True), key=lambda pair: -pair[1])
    shapes = models.layer_shapes(vgg.graph, vgg.params, (vgg.side, vgg.side, 3))
    made = {
        "photo": figures.picture_grid([shown], [""], folder / "photo.png", columns=1, width=380),
        "map-alone": figures.feature_map_grid(alone, folder / "alone.png"),
        "feature-maps": figures.feature_map_grid(maps, folder / "maps.png"),
        "maps-in-a-row": figures.maps_in_a_row(maps, folder / "row.png", shown),
        "prediction": figures.probabilities(*zip(*ranked, strict=True), folder / "prediction.png"),
        "vgg-network": figures.architecture(
            shapes, folder / "network.png", (vgg.side, vgg.side, 3), marked=recipes.FEATURE_MAPS
        ),
    }
    return {
        "figures": _paths(folder, made),
        "layers": captions.map_statistics(jax.device_get(raw)),
        "alone": {"layer": layer, "channel": channel},
        "photo": {
            "credit": "A picture of the user's own." if own else example_image.CREDIT,
            "truth": "" if own else "cat",
            "prediction": [{"name": name, "probability": float(p)} for name, p in ranked],
        },
        "network": table(vgg.graph, vgg.params, vgg.side),
    }


def filters(folder: Path, vgg: formats.Network, recipe: recipes.Recipe, side: int, seed: int) -> Result:
    result: Result = {"figures": {}, "provenance": {}}
    known = layers.shapes(vgg)
    for layer in (name for name in recipes.FILTERS if name in known):
        kept = folder / f"{layer}.json"
        if not kept.exists():
            chosen = recipes.filters_of(layer, known[layer][-1])
            scaled = recipes.at_side(recipe, side)
            draw = functools.partial(render.filters, vgg, layer, chosen, scaled, seed, side)
            drawn = _draw(folder, layer, len(chosen) * recipe.steps, draw)
            figures.picture_grid(
                [p.image for p in drawn],
                [f"filter {p.provenance['channel']}" for p in drawn],
                folder / f"{layer}.png",
                dead=[p.provenance["dead"] for p in drawn],
            )
            kept.write_text(json.dumps([p.provenance for p in drawn]))
        result["provenance"][layer] = json.loads(kept.read_text())
        result["figures"] |= _paths(folder, {f"filters/{layer}": folder / f"{layer}.png"})
    return result


def classes(folder: Path, vgg: formats.Network, recipe: recipes.Recipe, seed: int) -> Result:
    names = recipes.classes_of(vgg.class_names)
    draw = functools.partial(render.classes, vgg, names, recipes.at_side(recipe, vgg.side), seed)
    drawn = _draw(folder, "classes", len(names) * recipe.steps, draw)
    grid = figures.picture_grid([p.image for p in drawn], names, folder / "classes.png")
    return {"figures": _paths(folder, {"classes": grid}), "provenance": _with_choice(vgg, drawn)}


def _draw(folder: Path, what: str, steps: int, draw: Callable[..., list[image_io.Picture]]) -> list[image_io.Picture]:
    """Pictures drawn under a progress bar, each saved with its provenance."""
    with tqdm(total=steps, desc=f"  {what}", unit=" steps") as bar:
        drawn = draw(on_progress=bar.update)
    for picture in drawn:
        image_io.save(picture, folder / "pictures" / image_io.file_name(picture))
    return drawn


def _probabilities(network: formats.Network, images: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes) of pictures in [0, 1]."""
    logits, _ = jax.jit(network.forward)(network.params, jnp.asarray(images, jnp.float32))
    if logits.shape[1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)
    return np.asarray(jax.nn.softmax(logits))


def _with_choice(network: formats.Network, drawn: list[image_io.Picture]) -> list[dict[str, Any]]:
    """Each picture's provenance and the class that the network chooses for it as it is saved."""
    chances = _probabilities(network, np.stack([p.image for p in drawn]) / 255)
    chosen = [network.class_names[i] for i in chances.argmax(axis=1)]
    return [p.provenance | {"top1": name} for p, name in zip(drawn, chosen, strict=True)]


def table(graph: Any, params: Any, side: int) -> Result:
    """A network's summary as the page wants it."""
    found = analysis.summary(nnx.merge(graph, params), (side, side, 3))
    rows = [
        {"layer": r.layer, "shape": list(r.shape), "parameters": r.parameters, "flops": r.flops, "field": r.field}
        for r in found.rows
    ]
    return {"side": side, "parameters": found.parameters, "rows": rows}


def abstract(model: Callable[..., nnx.Module]) -> tuple[Any, Any]:
    """A network of the article's size without its parameters, which nobody needs for its shapes."""
    return models.split(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))))


def _paths(folder: Path, made: dict[str, Path]) -> dict[str, str]:
    """Figures' paths relative to the run's folder."""
    return {slot: str(Path(path).relative_to(folder.parent)) for slot, path in made.items()}
