"""The computations of the article's stages.

Each function leaves its figures in the stage's folder and returns JSON-able data. In it, `figures` maps the page's
slots to paths relative to the run's folder, which contains the stages' folders.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from tqdm import tqdm

from cnnjax import analysis, figures, files, formats, models, visualize
from cnnjax.article import captions
from cnnjax.article import worked_examples as examples
from cnnjax.article.stage_cache import Result
from cnnjax.article.training import TrainingRun
from cnnjax.data import example_image
from cnnjax.data.dataset import ArraySplit, Dataset
from cnnjax.figures import worked_examples as drawings
from cnnjax.network import Network
from cnnjax.visualize import recipes

ARTICLE_IMAGE_SIZE = 150
"""Height and width of the article's images of section 4, and of the photograph of section 6.1, in pixels."""

LoadImage = Callable[[int], Float[np.ndarray, "height width 3"]]
"""Returns the photograph of section 6 as a square of this size, with values in [0, 1]."""


def worked_examples(folder: Path) -> Result:
    """Section 2, with the package's photograph of a cat, and the article's network at its own size."""
    computed = examples.compute_all(example_image.chelsea_face(32))
    shape = (ARTICLE_IMAGE_SIZE, ARTICLE_IMAGE_SIZE, 3)
    paths = drawings.draw_all(computed, folder)
    paths["overview"] = figures.architecture(
        models.layer_shapes(*models.split(abstract(models.SmallCNN)), shape), folder / "overview.png", shape
    )
    return {"numbers": examples.numbers(computed), "figures": _relative(folder, paths)}


def train(folder: Path, run: TrainingRun, dataset: Dataset) -> Result:
    """One of the training runs of section 4."""
    result = run.fit(dataset, folder / "run")
    return {"history": result.history, "test": result.test, "digest": result.network.digest}


def small_network(
    folder: Path, results: Mapping[str, Result], run: TrainingRun, dataset: Dataset, recipe: str, seed: int
) -> Result:
    """Section 4: the data, augmented samples, the curves, the trained network, and an image of each of its classes."""
    network = formats.load(folder.parent / "augmented" / "run" / "weights.safetensors")
    histories = {
        "without augmentation": results["plain"]["history"],
        "with augmentation": results["augmented"]["history"],
    }
    names = network.class_names
    rendered = _render(
        folder,
        "cat and dog",
        lambda bar: visualize.render_classes(network, names, recipe=recipe, seed=seed, on_progress=bar),
        len(names) * recipes.recipe(recipe, "classes").steps,
    )
    plain = {title: histories[title] for title in list(histories)[:1]}
    paths = {
        **_draw_dataset(folder, run, dataset, names, seed),
        "curves-plain": figures.curves(plain, folder / "curves-plain.png"),
        "curves": figures.curves(histories, folder / "curves.png"),
        "small-network": _draw_network(folder, network),
        "cat-dog": figures.image_grid(
            [image.pixels for image in rendered], names, folder / "classes.png", columns=2, width=500
        ),
    }
    return {
        "figures": _relative(folder, paths),
        "cat_dog": _with_prediction(network, rendered),
        "network": table(network),
        "data": {
            "source": dataset.provenance["source"],
            "class_names": list(names),
            "train": len(dataset.train),
            "valid": len(dataset.valid),
            "test": int(results["augmented"]["test"]["count"]),
            "image_size": list(network.image_size),
            "skipped": list(dataset.skipped),
        },
    }


def _draw_dataset(folder: Path, run: TrainingRun, dataset: Dataset, names: Sequence[str], seed: int) -> dict[str, Path]:
    """Training images of each class, and augmented samples of the first one."""
    train = dataset.train
    assert isinstance(train, ArraySplit)
    indices = np.concatenate([np.flatnonzero(train.labels == i)[:8] for i in range(len(names))])
    images, labels = train.images[indices], train.labels[indices]
    titles = [names[label] for label in labels]
    repeated = jnp.asarray(np.repeat(images[:1], 8, 0), jnp.float32) / 255
    samples = run.augment(jax.random.split(jax.random.key(seed), 8), repeated)
    return {
        "dataset": figures.image_grid(images, titles, folder / "dataset.png", columns=8),
        "augmented": figures.augmented_samples(images[0], samples, folder / "augmented.png"),
    }


def feature_maps(folder: Path, vgg: Network, load_image: LoadImage, is_example: bool) -> Result:
    """Section 6.1. is_example: the photograph is that of the package, a cat.

    As in the article, the feature maps are those of a photograph of 150 × 150 pixels. The prediction is that for a
    photograph of the network's own image size.
    """
    photo = load_image(ARTICLE_IMAGE_SIZE)
    layer, channel = recipes.FEATURE_MAP_ALONE
    convolutions = visualize.at_image_size(vgg, ARTICLE_IMAGE_SIZE)
    channel = min(channel, visualize.layer_shapes(convolutions)[layer][-1] - 1)
    maps = visualize.feature_maps(vgg, photo, recipes.FEATURE_MAPS)
    single = visualize.feature_maps(vgg, photo, [layer], [channel])
    activations = jax.device_get(_activations(convolutions, photo[None]))
    probabilities = _probabilities(vgg, load_image(vgg.image_size[0])[None])[0]
    ranked = sorted(zip(vgg.class_names, probabilities, strict=True), key=lambda pair: -pair[1])
    paths = {
        "photo": figures.image_grid([photo], [""], folder / "photo.png", columns=1, width=380),
        "map-alone": figures.feature_map_grid(single, folder / "alone.png"),
        "feature-maps": figures.feature_map_grid(maps, folder / "maps.png"),
        "maps-in-a-row": figures.maps_in_a_row(maps, folder / "row.png", photo),
        "prediction": figures.probabilities(*zip(*ranked, strict=True), folder / "prediction.png"),
        "vgg-network": _draw_network(folder, vgg, recipes.FEATURE_MAPS),
    }
    return {
        "figures": _relative(folder, paths),
        "layers": captions.map_statistics({name: values[0] for name, values in activations.items()}),
        "single": {"layer": layer, "channel": channel},
        "photo": {
            "credit": example_image.CREDIT if is_example else "An image of the user's own.",
            "truth": "cat" if is_example else "",
            "prediction": [{"name": name, "probability": float(value)} for name, value in ranked],
        },
        "network": table(vgg),
    }


def filters(folder: Path, vgg: Network, recipe: str, image_size: int, seed: int) -> Result:
    """Section 6.2. A layer that is finished is not computed again when the stage is repeated."""
    result: Result = {"figures": {}, "provenance": {}}
    shapes = visualize.layer_shapes(vgg, image_size)
    for layer in (name for name in recipes.FILTERS if name in shapes):
        record = folder / f"{layer}.json"
        if not record.exists():
            channels = recipes.filters_of(layer, shapes[layer][-1])

            def render(bar: Callable[[int], object], layer: str = layer, channels: Sequence[int] = channels):
                return visualize.render_filters(
                    vgg, layer, channels, recipe=recipe, image_size=image_size, seed=seed, on_progress=bar
                )

            rendered = _render(folder, layer, render, len(channels) * recipes.recipe(recipe, "filters").steps)
            figures.image_grid(
                [image.pixels for image in rendered],
                [f"filter {image.provenance['channel']}" for image in rendered],
                folder / f"{layer}.png",
                dead=[image.provenance["dead"] for image in rendered],
            )
            files.write_json(record, [image.provenance for image in rendered])
        result["provenance"][layer] = json.loads(record.read_text())
        result["figures"] |= _relative(folder, {f"filters/{layer}": folder / f"{layer}.png"})
    return result


def classes(folder: Path, vgg: Network, recipe: str, seed: int) -> Result:
    """Section 6.3."""
    names = recipes.classes_of(vgg.class_names)
    rendered = _render(
        folder,
        "classes",
        lambda bar: visualize.render_classes(vgg, names, recipe=recipe, seed=seed, on_progress=bar),
        len(names) * recipes.recipe(recipe, "classes").steps,
    )
    grid = figures.image_grid([image.pixels for image in rendered], names, folder / "classes.png")
    return {"figures": _relative(folder, {"classes": grid}), "provenance": _with_prediction(vgg, rendered)}


def _render(
    folder: Path, label: str, render: Callable[[Callable[[int], object]], list[visualize.Image]], steps: int
) -> list[visualize.Image]:
    """Call `render` with a progress bar of so many steps, and save the images with their provenance."""
    with tqdm(total=steps, desc=f"  {label}", unit=" steps") as bar:
        rendered = render(bar.update)
    for image in rendered:
        image.save(folder / "images")
    return rendered


@jax.jit
def _activations(network: Network, images: Float[Array, "batch height width channels"]) -> dict[str, Array]:
    activations = network(images)[1]
    return {layer: activations[layer] for layer in recipes.FEATURE_MAPS}


def _probabilities(network: Network, images: Float[np.ndarray, "batch height width channels"]) -> np.ndarray:
    return np.asarray(jax.jit(Network.probabilities)(network, jnp.asarray(images, jnp.float32)))


def _with_prediction(network: Network, rendered: list[visualize.Image]) -> list[dict[str, Any]]:
    """The provenance of each image, and as `top1` the class that the network predicts for it as it is saved."""
    probabilities = _probabilities(network, np.stack([image.pixels for image in rendered]).astype(np.float32) / 255)
    predicted = [network.class_names[i] for i in probabilities.argmax(axis=1)]
    return [{**image.provenance, "top1": name} for image, name in zip(rendered, predicted, strict=True)]


def _draw_network(folder: Path, network: Network, marked: Sequence[str] = ()) -> Path:
    return figures.architecture(
        visualize.layer_shapes(network), folder / "network.png", network.image_shape, marked=marked
    )


def table(model: Network | nnx.Module, image_shape: tuple[int, int, int] | None = None) -> Result:
    """The summary of a network as the page needs it."""
    found = analysis.summary(model, image_shape)
    rows = [
        {
            "layer": row.layer,
            "shape": list(row.shape),
            "parameters": row.parameters,
            "flops": row.flops,
            "receptive_field": row.receptive_field,
        }
        for row in found.rows
    ]
    return {"image_size": list(found.image_shape[:2]), "parameters": found.parameters, "rows": rows}


def abstract(model: Callable[..., nnx.Module]) -> nnx.Module:
    """A model of the article's size without its parameters, from which shapes can be computed."""
    return nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0)))


def _relative(folder: Path, paths: Mapping[str, Path]) -> dict[str, str]:
    """The figures' paths relative to the run's folder."""
    return {slot: str(Path(path).relative_to(folder.parent)) for slot, path in paths.items()}
