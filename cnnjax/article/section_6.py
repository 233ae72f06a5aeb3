"""The computations of section 6: what a VGG computes for a photograph, and what its filters and classes respond to.

Each function leaves its figures in the stage's folder and returns JSON-able data, as those of `sections` do.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from cnnjax import figures, files, visualize
from cnnjax.article import captions, sections
from cnnjax.article.stage_cache import Result
from cnnjax.data import example_image
from cnnjax.network import Network
from cnnjax.visualize import films, recipes
from cnnjax.visualize.recipes import Recipe

COMPARED_LAYER, COMPARED = "block3_conv3", 4
"""The layer and the number of its filters that are drawn by the article's recipe too."""
FILMED, FRAMES = 4, 12
"""How many filters of the last layer are shown while they are drawn, and how many images of each after the noise."""
ATTRIBUTION_METHODS = (
    "gradient",
    "smooth-grad",
    "integrated-gradients",
    "guided-backpropagation",
    "grad-cam",
    "layer-cam",
    "occlusion",
)
"""Those that the page shows."""


@jax.jit
def _activations(network: Network, images: Float[Array, "batch height width channels"]) -> dict[str, Array]:
    activations = network(images)[1]
    return {layer: activations[layer] for layer in recipes.FEATURE_MAPS}


def feature_maps(folder: Path, vgg: Network, load_image: sections.LoadImage, is_example: bool) -> Result:
    """Section 6.1. is_example: the photograph is that of the package, a cat.

    As in the article, the feature maps are those of a photograph of 150 × 150 pixels. The prediction is that for a
    photograph of the network's own image size.
    """
    photo = load_image(sections.ARTICLE_IMAGE_SIZE)
    layer, channel = recipes.FEATURE_MAP_ALONE
    convolutions = visualize.at_image_size(vgg, sections.ARTICLE_IMAGE_SIZE)
    channel = min(channel, visualize.layer_shapes(convolutions)[layer][-1] - 1)
    maps = visualize.feature_maps(vgg, photo, recipes.FEATURE_MAPS)
    single = visualize.feature_maps(vgg, photo, [layer], [channel])
    activations = jax.device_get(_activations(convolutions, photo[None]))
    probabilities = sections.probabilities(vgg, load_image(vgg.image_size[0])[None])[0]
    ranked = sorted(zip(vgg.class_names, probabilities, strict=True), key=lambda pair: -pair[1])
    paths = {
        "photo": figures.image_grid([photo], [""], folder / "photo.png", columns=1, width=380),
        "map-alone": figures.feature_map_grid(single, folder / "alone.png"),
        "feature-maps": figures.feature_map_grid(maps, folder / "maps.png"),
        "maps-in-a-row": figures.maps_in_a_row(maps, folder / "row.png", photo),
        "prediction": figures.probabilities(*zip(*ranked, strict=True), folder / "prediction.png"),
        "vgg-network": sections.draw_network(folder, vgg, recipes.FEATURE_MAPS),
    }
    return {
        "figures": sections.relative(folder, paths),
        "layers": captions.map_statistics({name: values[0] for name, values in activations.items()}),
        "single": {"layer": layer, "channel": channel},
        "photo": {
            "credit": example_image.CREDIT if is_example else "An image of the user's own.",
            "truth": "cat" if is_example else "",
            "prediction": [{"name": name, "probability": float(value)} for name, value in ranked],
        },
        "network": sections.table(vgg),
    }


class FilterImages(NamedTuple):
    """How images of filters are optimized. image_size: in pixels; images are square."""

    network: Network
    recipe: Recipe
    image_size: int
    seed: int

    @property
    def layer_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return visualize.layer_shapes(self.network, self.image_size)

    def render(
        self, folder: Path, layer: str, channels: Sequence[int], frames: films.Recorder | None = None
    ) -> list[visualize.Image]:
        """Images of some filters of a layer, saved with a progress bar."""
        network, recipe, image_size, seed = self

        def render(bar: Callable[[int], object]) -> list[visualize.Image]:
            options: dict[str, Any] = {"recipe": recipe, "image_size": image_size, "seed": seed, "frames": frames}
            return visualize.render_filters(network, layer, channels, on_progress=bar, **options)

        return sections.render(folder, layer, render, len(channels) * recipe.steps)


def filters(folder: Path, images: FilterImages) -> Result:
    """Section 6.2. A layer that is finished is not computed again when the stage is repeated."""
    result: Result = {"figures": {}, "provenance": {}}
    shapes = images.layer_shapes
    layers = [name for name in recipes.FILTERS if name in shapes]
    film = folder / "ascent.gif"
    for layer in layers:
        record, filmed = folder / f"{layer}.json", layer == layers[-1]
        if not record.exists() or (filmed and not film.exists()):
            channels = recipes.filters_of(layer, shapes[layer][-1])
            recorder = films.Recorder(max(1, images.recipe.steps // FRAMES)) if filmed else None
            rendered = images.render(folder, layer, channels, recorder)
            if recorder is not None:
                films.tile(recorder.films()[:FILMED]).save(film, milliseconds=250, scale=2)
            figures.image_grid(
                [image.pixels for image in rendered],
                [f"filter {image.provenance['channel']}" for image in rendered],
                folder / f"{layer}.png",
                inactive=[bool(image.provenance["inactive"]) for image in rendered],
            )
            files.write_json(record, [image.provenance for image in rendered])
        result["provenance"][layer] = json.loads(files.read_text(record))
        result["figures"] |= sections.relative(folder, {f"filters/{layer}": folder / f"{layer}.png"})
    result["figures"] |= sections.relative(folder, {"ascent": film})
    return result


def article_recipe(folder: Path, images: FilterImages, ours: Recipe) -> Result:
    """The article's recipe beside this run's, for some filters of one layer. ours: that of the stage "filters"."""
    channels = recipes.filters_of(COMPARED_LAYER, images.layer_shapes[COMPARED_LAYER][-1])[:COMPARED]
    theirs = images.render(folder, COMPARED_LAYER, channels)
    kept = folder.parent / "filters" / "images"
    others = [visualize.Image.read(kept / image.file_name) for image in theirs]
    rendered = [*theirs, *others]
    names = [images.recipe.name] * len(theirs) + [ours.name] * len(others)
    grid = figures.image_grid(
        [image.pixels for image in rendered],
        [f"filter {image.provenance['channel']}, {name}" for image, name in zip(rendered, names, strict=True)],
        folder / "article-recipe.png",
        columns=len(theirs),
        inactive=[bool(image.provenance["inactive"]) for image in rendered],
    )
    return {
        "figures": sections.relative(folder, {"article-recipe": grid}),
        "provenance": [image.provenance for image in theirs],
    }


def classes(folder: Path, vgg: Network, recipe: Recipe, seed: int) -> Result:
    """Section 6.3."""
    names = recipes.classes_of(vgg.class_names)
    rendered = sections.render(
        folder,
        "classes",
        lambda bar: visualize.render_classes(vgg, names, recipe=recipe, seed=seed, on_progress=bar),
        len(names) * recipe.steps,
    )
    grid = figures.image_grid([image.pixels for image in rendered], names, folder / "classes.png")
    return {
        "figures": sections.relative(folder, {"classes": grid}),
        "provenance": sections.with_prediction(vgg, rendered),
    }


def attribution(folder: Path, vgg: Network, load_image: sections.LoadImage, seed: int) -> Result:
    """Where in the photograph the class was found: heat maps of several methods, for the likeliest class."""
    photo = load_image(vgg.image_size[0])[None]
    probabilities = sections.probabilities(vgg, photo)[0]
    best = int(probabilities.argmax())
    maps: dict[str, np.ndarray] = {}
    for method in tqdm(ATTRIBUTION_METHODS, desc="  attribution", unit=" methods"):
        found = visualize.attribute(vgg, photo, method, best, key=jax.random.key(seed))
        maps[method] = visualize.to_display(found)
    title = f"{vgg.class_names[best]} {captions.percent(float(probabilities[best]))}"
    sheet = figures.attribution_sheet(list(photo), maps, [title], folder / "attribution.png")
    return {
        "figures": sections.relative(folder, {"attribution": sheet}),
        "class": vgg.class_names[best],
        "probability": float(probabilities[best]),
        "methods": [{"name": name, "sentence": visualize.METHODS[name].sentence} for name in maps],
    }
