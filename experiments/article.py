"""The article, end to end: networks trained, curves, feature maps, filters and class pictures, on one page.

    python experiments/article.py

The work is done in stages, each in a folder of `runs/article/`. A second run finds the finished ones; an interrupted
one goes on where it stopped, training at its last epoch; `--fresh` starts over.

Two CPU cores, empty caches: 10 to 13 minutes; again, all found: 4 s. One seed: validation accuracy at the lowest
validation loss 86.0% without and 91.5% with augmentation, test accuracy 87.7% and 92.3%.
"""

import datetime
import functools
import importlib.metadata
import platform
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax

from cnnjax import data, formats, models, runtime
from cnnjax.article import report, sections
from cnnjax.article.stage_cache import Result, Stages, duration
from cnnjax.cli import command_line, config
from cnnjax.cli.config import Config
from cnnjax.data import example_image
from cnnjax.visualize import recipes

# Seconds on two cores, for the estimate of the time left.
PLAN = {"lessons": 15, "plain": 110, "augmented": 380, "small": 40, "maps": 10, "filters": 180, "classes": 45}


def article(
    *,
    out: Path = Path("runs/article"),
    side: int = 64,
    per_class: int = 1000,
    eval_per_class: int = 500,
    plain_epochs: int = 20,
    augmented_epochs: int = 40,
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
        weights: A VGG's weights file to look into, or imagenet (fetched and kept); empty takes the small VGG16 that is
            part of the package.
        image: A picture for the feature maps; empty takes the cat photograph that is part of the package.
        filters_recipe: How filters are drawn.
        filters_side: Side of the filters' pictures.
        classes_recipe: How classes are drawn.
        seed: For the data, the training and the pictures.
        fresh: Start over instead of going on.
    """
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    filters_recipe_, classes_recipe_ = (
        recipes.recipe(filters_recipe, "filters"),
        recipes.recipe(classes_recipe, "classes"),
    )
    vgg = formats.find(weights)
    photo = functools.partial(example_image.load_picture, Path(image)) if image else example_image.chelsea_face
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
        "lessons",
        "Section 2, worked out by the library",
        {"side": side},
        lambda folder: sections.lessons(folder, photo),
    )
    for name, title in (("plain", "Train without augmentation"), ("augmented", "Train with augmentation")):
        chosen = configs[name]
        stages.run(name, title, config.as_dict(chosen), lambda folder, c=chosen: sections.train(folder, c, dataset()))
    stages.run(
        "small",
        "Look at the small network",
        {"recipe": classes_recipe},
        lambda folder: sections.small(folder, stages, configs["augmented"], dataset(), classes_recipe_, seed),
    )
    looked = {"weights": vgg.digest, "image": image}
    stages.run(
        "maps", "Feature maps of the photograph", looked, lambda folder: sections.maps(folder, vgg, photo, bool(image))
    )
    stages.run(
        "filters",
        "Convnet filters, by gradient ascent",
        {"recipe": filters_recipe, "side": filters_side, "seed": seed},
        lambda folder: sections.filters(folder, vgg, filters_recipe_, filters_side, seed),
    )
    stages.run(
        "classes",
        "Class outputs, by gradient ascent",
        {"recipe": classes_recipe, "seed": seed},
        lambda folder: sections.classes(folder, vgg, classes_recipe_, seed),
    )
    print("Writing the page", flush=True)
    made = {
        "command": shlex.join(["python", *sys.argv]),
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind} "
        f"({platform.machine()}, {runtime.cores()} cores)",
        "seconds": sum(stages.seconds.values()),
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "seeds": {"data": seed, "training": seed, "pictures": seed},
        "versions": {p: importlib.metadata.version(p) for p in ("cnnjax", "jax", "flax", "optax", "numpy")},
        "stages": [{"title": stages.titles[name], "seconds": seconds} for name, seconds in stages.seconds.items()],
        "commands": [],
    }
    page = report.article(out, _content(stages, vgg, configs, made))
    print(f"{time.perf_counter() - clock:.0f} s; the page is {page.resolve()}")


def _content(stages: Stages, vgg: formats.Network, configs: dict[str, Config], made: Result) -> Result:
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
            "article_small": sections.table(*sections.abstract(models.SmallCNN), 150),
            "vgg": results["maps"]["network"],
            "article_vgg": sections.table(*sections.abstract(models.VGG16), 224),
        },
        "data": results["small"]["data"],
        "runs": runs,
        "vgg": {
            "side": vgg.side,
            "width": vgg.model.width,
            "class_names": list(vgg.class_names),
            "digest": vgg.digest,
            "test_accuracy": vgg.made.get("test", {}).get("accuracy"),
            "made": _origin(vgg),
        },
        "photo": results["maps"]["photo"],
        "feature_maps": {"layers": results["maps"]["layers"], "alone": results["maps"]["alone"]},
        "filters": results["filters"]["provenance"],
        "classes": results["classes"]["provenance"],
        "cat_dog": results["small"]["cat_dog"],
        "made": made,
    }


def _origin(network: formats.Network) -> str:
    """How its file says that a network was trained; empty if it does not."""
    if "config" not in network.made:
        return ""
    made = network.made["config"]
    pictures, train = made["data"], made["train"]
    return (
        f"{train['epochs']} epochs of {made['optimizer']['name']} with batches of {train['batch_size']} on the source "
        f"{pictures['source']}, {pictures['per_class']} pictures a class, seed {train['seed']}, in "
        f"{duration(network.made['seconds'])}"
    )


if __name__ == "__main__":
    command_line.main(article)
