"""The article, end to end: networks trained, curves, feature maps, filters and class pictures, on one page.

    python experiments/article.py

The work is done in stages, each in a folder of `runs/article/`. A second run finds the finished ones; an interrupted
one goes on where it stopped, training at its last epoch; `--fresh` starts over.

Two CPU cores with other work going on: 15 minutes; one seed: validation accuracy at the lowest validation loss 81.8%
without and 86.2% with augmentation, test accuracy 81.7% and 86.6%.
"""

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from cnnjax import analysis, captions, cli, config, data, figures, lessons, models, pretrained, report
from cnnjax.config import Config
from cnnjax.data import photograph
from cnnjax.data.augment import augment
from cnnjax.stages import Result, Stages
from cnnjax.train import loop
from cnnjax.visualize import ascent, feature_maps, layers, pictures, recipes

# Seconds on two cores, for the estimate of the time left.
PLAN = {"lessons": 15, "plain": 120, "augmented": 330, "small": 40, "maps": 10, "filters": 180, "classes": 45}


def article(
    *,
    out: Path = Path("runs/article"),
    side: int = 64,
    per_class: int = 1000,
    eval_per_class: int = 500,
    plain_epochs: int = 20,
    augmented_epochs: int = 30,
    weights: str = "",
    image: str = "",
    filters_recipe: str = "filters",
    filters_side: int = 96,
    classes_recipe: str = "classes",
    seed: int = 0,
    fresh: bool = False,
) -> None:
    """Recompute the article and write its page.

    Args:
        out: Folder of the run.
        side: Side of the training pictures; the article's is 150.
        per_class: Training pictures a class.
        eval_per_class: Pictures a class for validation, and again for the test.
        plain_epochs: Epochs without augmentation.
        augmented_epochs: Epochs with augmentation.
        weights: A VGG's weights file to look into; empty takes the small VGG16 that is part of the package.
        image: A picture for the feature maps; empty takes the cat photograph that is part of the package.
        filters_recipe: How filters are drawn.
        filters_side: Side of the filters' pictures.
        classes_recipe: How classes are drawn.
        seed: For the data, the training and the pictures.
        fresh: Start over instead of going on.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    filters_recipe_, classes_recipe_ = recipes.recipe(filters_recipe), recipes.recipe(classes_recipe)
    vgg = pretrained.load(Path(weights)) if weights else pretrained.shipped()
    photo = functools.partial(photograph.load_picture, Path(image)) if image else photograph.chelsea_face
    photo(vgg.side)
    stages = Stages(out, PLAN, fresh)

    def training(preset: str, epochs: int) -> Config:
        base = config.preset(preset)
        pictures_ = replace(base.data, side=side, per_class=per_class, eval_per_class=eval_per_class, seed=seed)
        batch = min(base.train.batch_size, per_class)
        train = replace(base.train, epochs=epochs, batch_size=batch, seed=seed, parallel="jit")
        if per_class < 1000:
            train = replace(train, steps_per_epoch=0)
        return replace(base, data=pictures_, train=train)

    configs = {"plain": training("cnn", plain_epochs), "augmented": training("cnn-augmented", augmented_epochs)}
    dataset = functools.cache(lambda: data.load(configs["plain"].data))

    stages.run(
        "lessons", "Section 2, worked out by the library", {"side": side}, lambda folder: _lessons(folder, photo)
    )
    for name, title in (("plain", "Train without augmentation"), ("augmented", "Train with augmentation")):
        chosen = configs[name]
        stages.run(name, title, config.as_dict(chosen), lambda folder, c=chosen: _train(folder, c, dataset()))
    stages.run(
        "small",
        "Look at the small network",
        {"recipe": classes_recipe},
        lambda folder: _small(folder, stages, configs["augmented"], dataset(), classes_recipe_, seed),
    )
    looked = {"weights": vgg.digest, "image": image}
    stages.run("maps", "Feature maps of the photograph", looked, lambda folder: _maps(folder, vgg, photo, bool(image)))
    stages.run(
        "filters",
        "Convnet filters, by gradient ascent",
        {"recipe": filters_recipe, "side": filters_side, "seed": seed},
        lambda folder: _filters(folder, vgg, filters_recipe_, filters_side, seed),
    )
    stages.run(
        "classes",
        "Class outputs, by gradient ascent",
        {"recipe": classes_recipe, "seed": seed},
        lambda folder: _classes(folder, vgg, classes_recipe_, seed),
    )
    print("Writing the page", flush=True)
    made = {
        "command": shlex.join(["python", *sys.argv]),
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()}, {_cores()} cores)",
        "seconds": sum(stages.seconds.values()),
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "seeds": {"data": seed, "training": seed, "pictures": seed},
        "versions": {p: importlib.metadata.version(p) for p in ("cnnjax", "jax", "flax", "optax", "numpy")},
        "stages": [{"title": stages.titles[name], "seconds": seconds} for name, seconds in stages.seconds.items()],
        "commands": [],
    }
    page = report.article(out, _content(stages, vgg, bool(weights), configs, made))
    print(f"{time.perf_counter() - clock:.0f} s; the page is {page.resolve()}")


def _lessons(folder: Path, photo: Callable[[int], np.ndarray]) -> Result:
    worked = lessons.every(photo(32))
    graph, params = _abstract(models.SmallCNN)
    shapes = models.layer_shapes(graph, params, (150, 150, 3))
    made = figures.lessons(worked, folder)
    made["overview"] = figures.architecture(shapes, folder / "overview.png", (150, 150, 3))
    return {"numbers": lessons.numbers(worked), "figures": _paths(folder, made)}


def _train(folder: Path, chosen: Config, dataset: data.Dataset) -> Result:
    result = loop.fit(chosen, dataset, folder / "run", resume=True)
    return {"history": result.history, "test": result.test, "digest": result.network.digest}


def _small(
    folder: Path, stages: Stages, chosen: Config, dataset: data.Dataset, recipe: recipes.Recipe, seed: int
) -> Result:
    """The data, augmented samples, the curves, the network's table, and what it takes for a cat and for a dog."""
    network = pretrained.load(folder.parent / "augmented" / "run" / "weights.safetensors")
    names, train = network.class_names, dataset.train
    few = np.concatenate([np.flatnonzero(train.labels == c)[:8] for c in range(len(names))])
    original = train.images[few[0]]
    keys = jax.random.split(jax.random.key(seed), 8)
    samples = augment(keys, jnp.asarray(np.repeat(original[None], 8, 0), jnp.float32) / 255, chosen.augment)
    plain, augmented = stages.results["plain"]["history"], stages.results["augmented"]["history"]
    draw = functools.partial(ascent.classes, network, names, recipes.at_side(recipe, network.side), seed)
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
        "network": _table(network.graph, network.params, network.side),
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


def _maps(folder: Path, vgg: pretrained.Network, photo: Callable[[int], np.ndarray], own: bool) -> Result:
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
            "credit": "A picture of the user's own." if own else photograph.CREDIT,
            "truth": "" if own else "cat",
            "prediction": [{"name": name, "probability": float(p)} for name, p in ranked],
        },
        "network": _table(vgg.graph, vgg.params, vgg.side),
    }


def _filters(folder: Path, vgg: pretrained.Network, recipe: recipes.Recipe, side: int, seed: int) -> Result:
    result: Result = {"figures": {}, "provenance": {}}
    known = layers.shapes(vgg)
    for layer in (name for name in recipes.FILTERS if name in known):
        kept = folder / f"{layer}.json"
        if not kept.exists():
            chosen = recipes.filters_of(layer, known[layer][-1])
            scaled = recipes.at_side(recipe, side)
            draw = functools.partial(ascent.filters, vgg, layer, chosen, scaled, seed, side)
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


def _classes(folder: Path, vgg: pretrained.Network, recipe: recipes.Recipe, seed: int) -> Result:
    names = [name for name in recipes.CLASSES if name in vgg.class_names] or list(vgg.class_names)[:12]
    draw = functools.partial(ascent.classes, vgg, names, recipes.at_side(recipe, vgg.side), seed)
    drawn = _draw(folder, "classes", len(names) * recipe.steps, draw)
    grid = figures.picture_grid([p.image for p in drawn], names, folder / "classes.png")
    return {"figures": _paths(folder, {"classes": grid}), "provenance": _with_choice(vgg, drawn)}


def _draw(folder: Path, what: str, steps: int, draw: Callable[..., list[pictures.Picture]]) -> list[pictures.Picture]:
    """Pictures drawn under a progress bar, each saved with its provenance."""
    with tqdm(total=steps, desc=f"  {what}", unit=" steps") as bar:
        drawn = draw(on_progress=bar.update)
    for picture in drawn:
        pictures.save(picture, folder / "pictures" / pictures.file_name(picture))
    return drawn


def _probabilities(network: pretrained.Network, images: np.ndarray) -> np.ndarray:
    """Class probabilities (n, classes) of pictures in [0, 1]."""
    logits, _ = jax.jit(network.forward)(network.params, jnp.asarray(images, jnp.float32))
    if logits.shape[1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)
    return np.asarray(jax.nn.softmax(logits))


def _with_choice(network: pretrained.Network, drawn: list[pictures.Picture]) -> list[dict[str, Any]]:
    """Each picture's provenance and the class that the network chooses for it as it is saved."""
    chances = _probabilities(network, np.stack([p.image for p in drawn]) / 255)
    chosen = [network.class_names[i] for i in chances.argmax(axis=1)]
    return [p.provenance | {"top1": name} for p, name in zip(drawn, chosen, strict=True)]


def _table(graph: Any, params: Any, side: int) -> Result:
    """A network's summary as the page wants it."""
    found = analysis.summary(nnx.merge(graph, params), (side, side, 3))
    rows = [
        {"layer": r.layer, "shape": list(r.shape), "parameters": r.parameters, "flops": r.flops, "field": r.field}
        for r in found.rows
    ]
    return {"side": side, "parameters": found.parameters, "rows": rows}


def _abstract(model: Callable[..., nnx.Module]) -> tuple[Any, Any]:
    """A network of the article's size without its parameters, which nobody needs for its shapes."""
    return models.split(nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0))))


def _content(stages: Stages, vgg: pretrained.Network, own: bool, configs: dict[str, Config], made: Result) -> Result:
    results = stages.results
    runs = {
        name: results[name] | {"config": config.as_dict(configs[name]), "seconds": stages.seconds[name]}
        for name in ("plain", "augmented")
    }
    return {
        "figures": functools.reduce(lambda a, b: a | b, (r.get("figures", {}) for r in results.values())),
        "lessons": results["lessons"]["numbers"],
        "networks": {
            "small": results["small"]["network"],
            "article_small": _table(*_abstract(models.SmallCNN), 150),
            "vgg": results["maps"]["network"],
            "article_vgg": _table(*_abstract(models.VGG16), 224),
        },
        "data": results["small"]["data"],
        "runs": runs,
        "vgg": {
            "side": vgg.side,
            "width": vgg.model.width,
            "class_names": list(vgg.class_names),
            "digest": vgg.digest,
            "test_accuracy": vgg.made.get("test", {}).get("accuracy"),
            "made": "" if own else "python experiments/train.py vgg16-mini",
        },
        "photo": results["maps"]["photo"],
        "feature_maps": {"layers": results["maps"]["layers"], "alone": results["maps"]["alone"]},
        "filters": results["filters"]["provenance"],
        "classes": results["classes"]["provenance"],
        "cat_dog": results["small"]["cat_dog"],
        "made": made,
    }


def _paths(folder: Path, made: dict[str, Path]) -> dict[str, str]:
    """Figures' paths relative to the run's folder."""
    return {slot: str(Path(path).relative_to(folder.parent)) for slot, path in made.items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    cli.main(article)
