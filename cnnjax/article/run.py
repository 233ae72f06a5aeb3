"""The article, computed from the first to the last section in cached stages, and its page."""

import datetime
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cnnjax import models, runtime, visualize
from cnnjax.article import report, section_6, sections
from cnnjax.article.stage_cache import Result, StageCache, duration
from cnnjax.article.training import AUGMENTED_BATCH_SIZE, CLASSES, PLAIN_BATCH_SIZE, TrainingRun
from cnnjax.data import example_image, procedural
from cnnjax.data.augment import Augment
from cnnjax.data.dataset import Dataset
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.visualize import fingerprint, recipes
from cnnjax.visualize.recipes import Recipe

PLAN = {
    "worked-examples": 5, "plain": 128, "augmented": 415, "small-network": 11, "feature-maps": 8, "filters": 119,
    "article-recipe": 54, "classes": 70, "attribution": 38,
}  # fmt: skip
"""The stages in order, with the seconds that each takes on two CPU cores."""


class Recipes(NamedTuple):
    """How the images of section 6 are optimized."""

    filters: Recipe = recipes.recipe("filters")
    classes: Recipe = recipes.recipe("classes")
    article: Recipe = recipes.recipe("article", "filters")
    """For some filters of one layer, beside the same by `filters`."""


RECIPES = Recipes()


def run(
    out: Path,
    *,
    network: Network,
    image_size: int = 64,
    per_class: int = 1000,
    eval_per_class: int = 500,
    plain_epochs: int = 20,
    augmented_epochs: int = 50,
    image: UInt8[np.ndarray, "height width 3"] | Float[np.ndarray, "height width 3"] | None = None,
    drawn_by: Recipes = RECIPES,
    filters_image_size: int = 96,
    seed: int = 0,
    fresh: bool = False,
    command: str = "",
) -> Path:
    """Compute the article and write its page, `out/index.html`.

    Finished stages are read from `out`; an interrupted stage is continued.

    Args:
        out: Folder of the run.
        network: A VGG, whose feature maps, filters and classes sections 5 and 6 show.
        image_size: Height and width of the training images in pixels; 150 in the article.
        per_class: Number of training images of each class.
        eval_per_class: Number of validation images of each class, and also of test images.
        plain_epochs: Epochs of the run without augmentation.
        augmented_epochs: Epochs of the run with augmentation.
        image: The image for the feature maps, uint8 or floats in [0, 1]. None uses the photograph of a cat that is
            part of the package.
        drawn_by: How the images of filters and classes are optimized.
        filters_image_size: Height and width of the filters' images in pixels.
        seed: For the data, the training and the visualizations.
        fresh: Compute all stages again.
        command: The command to show on the page.

    Returns:
        The path of the page.

    Raises:
        UserError: For a network without the layers that the article shows, counts below 1, a folder that cannot be
            written, or settings that do not fit together.
    """
    started = datetime.datetime.now(datetime.UTC)
    check(network)
    counts = {"per_class": per_class, "eval_per_class": eval_per_class}
    for name, count in (counts | {"plain_epochs": plain_epochs, "augmented_epochs": augmented_epochs}).items():
        if count < 1:
            raise UserError(f"{name}={count} leaves nothing to train with or to measure: give 1 or more")
    stages = StageCache(out, PLAN, fresh)
    common = {"image_size": image_size, "per_class": per_class, "eval_per_class": eval_per_class, "seed": seed}
    runs = _training_runs(common, plain_epochs, augmented_epochs)
    images = {"per_class": per_class, "valid": eval_per_class, "test": eval_per_class, "image_size": image_size}
    dataset = functools.cache(lambda: procedural.load(CLASSES, **images, seed=seed))
    _run_sections_2_to_4(stages, runs, dataset, drawn_by.classes, seed)
    load_image = example_image.chelsea_face if image is None else functools.partial(_resize, image)
    given = {"class_names": list(network.class_names), "image_size": list(network.image_size), "image": _digest(image)}
    visualized = fingerprint.of_network(network) | given | {"seed": seed}
    show_maps = functools.partial(section_6.feature_maps, vgg=network, load_image=load_image, is_example=image is None)
    stages.run("feature-maps", "Feature maps of the photograph", visualized, show_maps)
    _run_section_6(stages, network, visualized, drawn_by, filters_image_size)
    explain = functools.partial(section_6.attribution, vgg=network, load_image=load_image, seed=seed)
    stages.run("attribution", "Attribution of the photograph", visualized, explain)
    print("Writing the page", flush=True)
    return report.write_page(out, _content(stages, network, runs, _provenance(stages, command, started, seed)))


def _training_runs(common: dict[str, int], plain_epochs: int, augmented_epochs: int) -> dict[str, TrainingRun]:
    """The article's two runs. common: what both share: image_size, per_class, eval_per_class, seed."""
    most = common["per_class"]
    return {
        "plain": TrainingRun(**common, epochs=plain_epochs, batch_size=min(PLAIN_BATCH_SIZE, most), augment=None),
        "augmented": TrainingRun(
            **common, epochs=augmented_epochs, batch_size=min(AUGMENTED_BATCH_SIZE, most), augment=Augment()
        ),
    }


def check(network: Network) -> None:
    """Raises UserError for a network without the layers that the article shows, or for images of another kind."""
    shapes = visualize.layer_shapes(network)
    missing = [layer for layer in (*recipes.FEATURE_MAPS, section_6.COMPARED_LAYER) if layer not in shapes]
    if missing:
        raise UserError(
            f"the network has no layer {missing[0]}: the article needs a VGG with five blocks, such as vgg16"
        )
    if not network.class_names:
        raise UserError("the network has no classes, which section 6.3 visualizes: load it with its dense layers")
    height, width, channels = network.image_shape
    if channels != 3 or height != width:
        raise UserError(
            f"the network takes images of {height}×{width} with {channels} channel{'s' if channels > 1 else ''}: the "
            "article needs one for square RGB images, such as vgg16"
        )


def _run_section_6(
    stages: StageCache, network: Network, visualized: dict[str, Any], chosen: Recipes, image_size: int
) -> None:
    """Filters and classes. visualized: what the results depend on."""
    seed = visualized["seed"]
    images = section_6.FilterImages(network, chosen.filters, image_size, seed)

    def inputs(recipe: Recipe, **more: int) -> dict[str, Any]:
        return visualized | fingerprint.of_recipe(recipe) | more

    stages.run(
        "filters",
        "Visualize filters by gradient ascent",
        inputs(chosen.filters, image_size=image_size),
        lambda folder: section_6.filters(folder, images),
    )
    stages.run(
        "article-recipe",
        "The same by the article's recipe, for one layer",
        inputs(chosen.article, image_size=image_size),
        lambda folder: section_6.article_recipe(folder, images._replace(recipe=chosen.article), chosen.filters),
    )
    stages.run(
        "classes",
        "Visualize classes by gradient ascent",
        inputs(chosen.classes),
        lambda folder: section_6.classes(folder, network, chosen.classes, seed),
    )


def _run_sections_2_to_4(
    stages: StageCache,
    runs: dict[str, TrainingRun],
    dataset: Callable[[], Dataset],
    recipe: Recipe,
    seed: int,
) -> None:
    stages.run(
        "worked-examples",
        "Worked examples of section 2",
        {},
        sections.worked_examples,
    )
    for name, title in (("plain", "Train without augmentation"), ("augmented", "Train with augmentation")):
        run = runs[name]
        stages.run(name, title, run.record(), lambda folder, run=run: sections.train(folder, run, dataset()))
    stages.run(
        "small-network",
        "Visualize the small network",
        fingerprint.of_recipe(recipe) | {"seed": seed},
        lambda folder: sections.small_network(folder, stages.results, runs["augmented"], dataset(), recipe, seed),
    )


def _resize(image: np.ndarray, size: int) -> Float[np.ndarray, "height width 3"]:
    """The image as a square of this size, without keeping its aspect, as training images are resized."""
    pixels = image if image.dtype == np.uint8 else np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(resized, np.float32) / 255


def _digest(image: np.ndarray | None) -> str:
    return "" if image is None else hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _provenance(stages: StageCache, command: str, started: datetime.datetime, seed: int) -> Result:
    """How the page was made."""
    device = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    return {
        "command": command,
        "device": f"{device} ({platform.machine()}, {runtime.cores()} cores)",
        "seconds": sum(stages.seconds.values()),
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "seeds": {"data": seed, "training": seed, "images": seed},
        "versions": {name: importlib.metadata.version(name) for name in ("cnnjax", "jax", "flax", "optax", "numpy")},
        "stages": [{"title": stages.titles[name], "seconds": seconds} for name, seconds in stages.seconds.items()],
        "commands": [],
    }


def _content(stages: StageCache, network: Network, runs: dict[str, TrainingRun], provenance: Result) -> Result:
    """Everything that the page shows; see `report`."""
    results = stages.results
    figures: dict[str, str] = {}
    for result in results.values():
        figures |= result.get("figures", {})
    small, vgg = sections.abstract(models.SmallCNN), sections.abstract(models.VGG16)
    size = sections.ARTICLE_IMAGE_SIZE
    return {
        "figures": figures,
        "worked_examples": results["worked-examples"]["numbers"],
        "networks": {
            "small": results["small-network"]["network"],
            "article_small": sections.table(small, (size, size, 3)),
            "vgg": results["feature-maps"]["network"],
            "article_vgg": sections.table(vgg, (224, 224, 3)),
        },
        "data": results["small-network"]["data"],
        "runs": {
            name: results[name] | {"config": run.record(), "seconds": stages.seconds[name]}
            for name, run in runs.items()
        },
        "vgg": {
            "model": network.model_name,
            "image_size": list(network.image_size),
            "width_multiplier": (network.config or {}).get("width_multiplier", 1.0),
            "class_names": list(network.class_names),
            "digest": network.digest,
            "test_accuracy": (network.provenance.get("test") or {}).get("accuracy"),
            "training": _describe_training(network),
        },
        "photo": results["feature-maps"]["photo"],
        "feature_maps": {name: results["feature-maps"][name] for name in ("layers", "single")},
        "filters": results["filters"]["provenance"],
        "article_recipe": results["article-recipe"]["provenance"],
        "classes": results["classes"]["provenance"],
        "attribution": {name: results["attribution"][name] for name in ("class", "probability", "methods")},
        "cat_dog": results["small-network"]["cat_dog"],
        "provenance": provenance,
    }


def _describe_training(network: Network) -> str:
    """Where a network's weights come from, if its file records it, else an empty string."""
    notes: dict[str, Any] = dict(network.provenance)
    try:
        if "credit" in notes and "data" in notes:
            return (
                f"{notes['title']} for the convolutions ({notes['credit']}; {notes['licence']}), and for the dense "
                f"layers from {_describe_run(notes['config'], notes['data'])}"
            )
        config = notes["config"]
        images, settings = config["data"], config["train"]
        run = _describe_run(settings, images | {"seed": settings["seed"]}, f" of {config['optimizer']['name']}")
        return f"{run}, in {duration(notes['seconds'])}"
    except (KeyError, TypeError):  # The record of a network that was trained from Python may have any form.
        return ""


def _describe_run(settings: dict[str, Any], images: dict[str, Any], optimizer: str = "") -> str:
    version = images.get("rendering") or images.get("version")
    rendered = f" (version {version} of the renderer)" if version else ""
    return (
        f"{settings['epochs']} epochs{optimizer} with batches of {settings['batch_size']} on the source "
        f"{images['source']}{rendered} with {images['per_class']} images of each class and seed {images['seed']}"
    )
