"""The computations of the article's stages.

Each function leaves its figures in the stage's folder and returns JSON-able data. In it, `figures` maps the page's
slots to paths relative to the run's folder, which contains the stages' folders.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from tqdm import tqdm

from cnnjax import analysis, figures, formats, models, visualize
from cnnjax.article import worked_examples as examples
from cnnjax.article.stage_cache import Result
from cnnjax.article.training import TrainingRun
from cnnjax.data import example_image
from cnnjax.data.dataset import ArraySplit, Dataset
from cnnjax.figures import worked_examples as drawings
from cnnjax.network import Network
from cnnjax.visualize.recipes import Recipe

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
    return {"numbers": examples.numbers(computed), "figures": relative(folder, paths)}


def train(folder: Path, run: TrainingRun, dataset: Dataset) -> Result:
    """One of the training runs of section 4."""
    result = run.fit(dataset, folder / "run")
    return {"history": result.history, "test": result.test, "digest": result.network.digest}


def small_network(
    folder: Path, results: Mapping[str, Result], run: TrainingRun, dataset: Dataset, recipe: Recipe, seed: int
) -> Result:
    """Section 4: the data, augmented samples, the curves, the trained network, and an image of each of its classes."""
    network = formats.load(folder.parent / "augmented" / "run" / "weights.safetensors")
    histories = {
        "without augmentation": results["plain"]["history"],
        "with augmentation": results["augmented"]["history"],
    }
    names = network.class_names
    rendered = render(
        folder,
        "cat and dog",
        lambda bar: visualize.render_classes(network, names, recipe=recipe, seed=seed, on_progress=bar),
        len(names) * recipe.steps,
    )
    plain = {title: histories[title] for title in list(histories)[:1]}
    paths = {
        **_draw_dataset(folder, run, dataset, names, seed),
        "curves-plain": figures.curves(plain, folder / "curves-plain.png"),
        "curves": figures.curves(histories, folder / "curves.png"),
        "small-network": draw_network(folder, network),
        "cat-dog": figures.image_grid(
            [image.pixels for image in rendered], names, folder / "classes.png", columns=2, width=500
        ),
    }
    return {
        "figures": relative(folder, paths),
        "cat_dog": with_prediction(network, rendered),
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


def render(
    folder: Path, label: str, render: Callable[[Callable[[int], object]], list[visualize.Image]], steps: int
) -> list[visualize.Image]:
    """Call `render` with a progress bar of so many steps, and save the images with their provenance."""
    with tqdm(total=steps, desc=f"  {label}", unit=" steps") as bar:
        rendered = render(bar.update)
    for image in rendered:
        image.save(folder / "images")
    return rendered


def probabilities(network: Network, images: Float[np.ndarray, "batch height width channels"]) -> np.ndarray:
    return np.asarray(jax.jit(Network.probabilities)(network, jnp.asarray(images, jnp.float32)))


def with_prediction(network: Network, rendered: list[visualize.Image]) -> list[dict[str, Any]]:
    """The provenance of each image, and as `top1` the class that the network predicts for it as it is saved."""
    found = probabilities(network, np.stack([image.pixels for image in rendered]).astype(np.float32) / 255)
    predicted = [network.class_names[i] for i in found.argmax(axis=1)]
    return [{**image.provenance, "top1": name} for image, name in zip(rendered, predicted, strict=True)]


def draw_network(folder: Path, network: Network, marked: Sequence[str] = ()) -> Path:
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


def relative(folder: Path, paths: Mapping[str, Path]) -> dict[str, str]:
    """The figures' paths relative to the run's folder."""
    return {slot: str(Path(path).relative_to(folder.parent)) for slot, path in paths.items()}
