"""The command `article`: the article, recomputed from the first to the last section, on one page."""

import shlex
import sys
import time
from pathlib import Path

from cnnjax.article import run
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.data import example_image
from cnnjax.errors import UserError
from cnnjax.printable import printable
from cnnjax.visualize import recipes
from cnnjax.visualize.recipes import Recipe

_IMAGE_SIZE = 512  # an image is resized again for each network

_READING = Reading()


def article(
    *,
    out: Path = Path("runs/article"),
    image_size: int = 64,
    per_class: int = 1000,
    eval_per_class: int = 500,
    plain_epochs: int = 20,
    augmented_epochs: int = 50,
    weights: str = "vgg16",
    reading: Flags = _READING,
    image: str = "",
    filters_recipe: str = "lucid",
    filters_steps: int | None = 64,
    filters_image_size: int = 96,
    classes_recipe: str = "lucid",
    classes_steps: int | None = 96,
    article_steps: int | None = None,
    seed: int = 0,
    fresh: bool = False,
) -> None:
    """Recompute the article and write its page.

    Args:
        out: Folder of the run. The page is index.html in it.
        image_size: Height and width of the training images in pixels. The article's are 150.
        per_class: Training images per class.
        eval_per_class: Validation images per class, and as many test images per class.
        plain_epochs: Epochs without augmentation.
        augmented_epochs: Epochs with augmentation.
        weights: The weights file of a VGG to look into, the folder of a run, imagenet (downloaded and kept), or
            vgg16-mini, the small network of the package. By default the real VGG16's convolutions, which are part of
            the package, with dense layers for the fourteen procedural classes.
        image: An image for the feature maps. Empty uses the photograph of a cat that is part of the package.
        filters_recipe: How filters are visualized: lucid, filters, quick, article and others.
        filters_steps: Steps of the optimization of each filter's image. None takes the recipe's.
        filters_image_size: Height and width of the filters' images in pixels.
        classes_recipe: How classes are visualized: lucid, classes, quick, article and others.
        classes_steps: Steps of the optimization of each class's image. None takes the recipe's.
        article_steps: Steps of the images by the article's recipe, which are shown beside those by filters_recipe. None
            takes the recipe's.
        seed: Seed of the data, the training and the visualizations.
        fresh: Compute everything again instead of continuing.
    """
    started = time.perf_counter()
    network = load(weights, reading)
    page = run.run(
        out,
        network=network,
        image_size=image_size,
        per_class=per_class,
        eval_per_class=eval_per_class,
        plain_epochs=plain_epochs,
        augmented_epochs=augmented_epochs,
        image=example_image.load_image(Path(image), _IMAGE_SIZE) if image else None,
        drawn_by=run.Recipes(
            filters=_recipe(filters_recipe, "filters", filters_steps, "--filters-steps"),
            classes=_recipe(classes_recipe, "classes", classes_steps, "--classes-steps"),
            article=_recipe("article", "filters", article_steps, "--article-steps"),
        ),
        filters_image_size=filters_image_size,
        seed=seed,
        fresh=fresh,
        command=shlex.join(_command()),
    )
    print(printable(f"{time.perf_counter() - started:.0f} s; the page is {page.resolve()}"))


def _recipe(name: str, what: str, steps: int | None, flag: str) -> Recipe:
    """Raises UserError for an unknown recipe and for too few steps."""
    chosen = recipes.recipe(name, what)
    if steps is not None and steps < len(chosen.stages):
        raise UserError(f"{flag} {steps} is too few for recipe {chosen.name!r}: its stages need {len(chosen.stages)}")
    return chosen if steps is None else recipes.with_steps(chosen, steps)


def _command() -> list[str]:
    """The command line as a person would write it."""
    program, *arguments = sys.argv
    name = Path(program).name
    if name == "__main__.py":
        return ["python", "-m", "cnnjax", *arguments]
    return [name, *arguments] if name == "cnnjax" else ["python", program, *arguments]
