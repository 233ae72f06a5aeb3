"""The command `visualize`: feature maps of an image, and filters and classes by gradient ascent on the input."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from cnnjax import figures
from cnnjax import visualize as visualization
from cnnjax.cli.quality import IMAGES, PER_CLASS, describe, measure, prepare
from cnnjax.cli.quality import Flags as QualityFlags
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.data import example_image, imagenet
from cnnjax.errors import UserError
from cnnjax.files import make_folder
from cnnjax.network import Network
from cnnjax.printable import printable
from cnnjax.visualize import Image, recipes
from cnnjax.visualize.recipes import Recipe

_READING = Reading()


def feature_maps(
    *,
    weights: str = "vgg16",
    reading: Flags = _READING,
    image: str = "",
    layer: tuple[str, ...] = (),
    channels: tuple[int, ...] = (),
    image_size: int | tuple[int, int] | None = None,
    include_top: bool = True,
    out: Path = Path("runs/feature-maps"),
) -> None:
    """Show how a network transforms an image, layer by layer.

    Args:
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        image: An image file. Empty uses the photograph of a cat that is part of the package.
        layer: Names of the layers. Empty uses the first convolution of each block of a VGG, or all layers with maps.
        channels: Numbers of the channels of each layer. Empty uses the first eight.
        image_size: Size of the image in pixels, one number or height and width, for networks that take any size. By
            default 150 for a VGG's convolutions, else the network's.
        include_top: Whether to read the dense layers of the weights, where there are any.
        out: Folder for the figure.
    """
    network = load(weights, reading, None if include_top else False)
    if image_size is None:
        image_size = 150 if network.model_name.startswith("vgg") else network.image_size
    crop = imagenet.crop(network.class_names)
    pixels = (
        example_image.load_image(Path(image), image_size, crop) if image else example_image.chelsea_face(image_size)
    )
    pixels = example_image.in_channels(pixels, network.channels)
    maps = visualization.feature_maps(network, pixels, layer or _default_layers(network), channels or 8)
    make_folder(out)
    for name, found in maps.items():
        blank = [channel for channel, is_blank in zip(found.channels, found.blank, strict=True) if is_blank]
        height, width = found.maps.shape[1:]
        print(f"{name}: {height}×{width}, blank channels: {', '.join(map(str, blank)) or 'none'}")
    print(printable(f"wrote {figures.feature_map_grid(maps, out / 'feature-maps.png')}"))


def filters(
    *,
    layer: str,
    weights: str = "vgg16",
    reading: Flags = _READING,
    channels: tuple[int, ...] = (),
    recipe: str = "lucid",
    steps: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    include_top: bool = True,
    seed: int = 0,
    quality: bool = False,
    quality_images: str = IMAGES,
    quality_per_class: int = PER_CLASS,
    out: Path = Path("runs/filters"),
) -> None:
    """Render images that activate the filters of a layer as much as possible.

    Args:
        layer: Name of the layer.
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        channels: Numbers of the layer's channels. Empty uses eight of them.
        recipe: How the images are optimized: lucid (Fourier coefficients, robust to small changes), lucid-fast
            (the same by larger steps), filters (pixels, as the article, for networks of any scale), quick (filters
            within seconds), maco (the spectrum of photographs, with an alpha channel; slow) or article, which gives
            weights from Caffe their input without normalization, as the article did.
        steps: Steps of the optimization, divided among the stages of the recipe. By default 128 for lucid, else those
            of the recipe.
        image_size: Size of the images in pixels, one number or height and width, for networks that take any size. By
            default the network's, and 128 for convolutions alone.
        include_top: Whether to read the dense layers of the weights, where there are any.
        seed: Seed of the noise that the optimization starts from.
        quality: Measure the images against those of a data set: activation, selectivity, robustness and the path
            through the network. It is printed and goes into each image's JSON file.
        quality_images: The data set: procedural (rendered), folder:PATH (all image files in and below a folder),
            tfds:NAME or hub:NAME.
        quality_per_class: How many of its images of each class, except of folder:PATH.
        out: Folder for the images and the figure.
    """
    network, chosen = load(weights, reading, None if include_top else False), _recipe(recipe, "filters", steps)
    if image_size is None and not network.class_names and network.model_name.startswith("vgg"):
        image_size = 128
    print(visualization.describe_input(network, chosen))
    shapes = visualization.layer_shapes(network, image_size)
    count = shapes.get(layer, (1,))[-1]
    numbers = visualization.check_channels(shapes, layer, channels or recipes.filters_of(layer, count))
    comparison = prepare(network, image_size, QualityFlags(quality, quality_images, quality_per_class))
    make_folder(out)
    drawn = _with_progress(
        len(numbers) * chosen.steps,
        lambda tick: visualization.render_filters(
            network, layer, numbers, recipe=chosen, image_size=image_size, seed=seed, on_progress=tick
        ),
    )
    if comparison is not None:
        _keep(drawn, out)
        drawn = measure(drawn, network, chosen, comparison)
    titles = [f"filter {image.provenance['channel']}" for image in drawn]
    source = weights if len(weights) <= 32 else f"…{weights[-31:]}"
    _save(drawn, out, f"{layer}.png", titles, f"{layer} of {source}, recipe {chosen.name}")


def classes(
    *,
    names: tuple[str, ...] = (),
    weights: str = "vgg16",
    reading: Flags = _READING,
    recipe: str = "lucid",
    steps: int | None = None,
    seed: int = 0,
    quality: bool = False,
    quality_images: str = IMAGES,
    quality_per_class: int = PER_CLASS,
    twin: str = "",
    out: Path = Path("runs/classes"),
) -> None:
    """Render images that a network considers typical of its classes.

    Args:
        names: Names of the classes. Empty uses the article's twelve, or the network's first twelve.
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        recipe: How the images are optimized: lucid (Fourier coefficients, robust to small changes), lucid-fast
            (the same by larger steps), classes (pixels, as the article, for networks of any scale), quick (the same
            within seconds), maco (the spectrum of photographs, with an alpha channel; slow) or article, which gives
            weights from Caffe their input without normalization, as the article did.
        steps: Steps of the optimization, divided among the stages of the recipe. By default 128 for lucid, else those
            of the recipe.
        seed: Seed of the noise that the optimization starts from.
        quality: Measure whether the images are recognized, how robust they are, and whether they take the path of the
            data set's images through the network. It is printed and goes into each image's JSON file.
        quality_images: The data set: procedural (rendered), folder:PATH (all image files in and below a folder),
            tfds:NAME or hub:NAME. The path of a class is compared with that of images whose class has the same name.
        quality_per_class: How many of its images of each class, except of folder:PATH.
        twin: Weights of an independently trained network of the same classes, which also classifies the images.
            vgg16-twin has the real VGG16's convolutions and dense layers of another seed.
        out: Folder for the images and the figure.
    """
    network, chosen = load(weights, reading), _recipe(recipe, "classes", steps)
    if not network.class_names:
        raise UserError(f"the network of {weights} has no classes, only convolutions: give one with its dense layers")
    print(visualization.describe_input(network, chosen))
    found = recipes.classes_of(network.class_names, names)
    comparison = prepare(network, None, QualityFlags(quality, quality_images, quality_per_class, twin), found)
    make_folder(out)
    drawn = _with_progress(
        len(found) * chosen.steps,
        lambda tick: visualization.render_classes(network, found, recipe=chosen, seed=seed, on_progress=tick),
    )
    if comparison is not None:
        _keep(drawn, out)
        drawn = measure(drawn, network, chosen, comparison)
    titles = [f"{image.provenance['class']} {image.provenance['probability_after']:.0%}" for image in drawn]
    _save(drawn, out, "classes.png", titles)


def deepdream(
    *,
    layer: str,
    image: str = "",
    weights: str = "vgg16",
    reading: Flags = _READING,
    steps: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    out: Path = Path("runs/deepdream"),
) -> None:
    """Change an image to increase the activations of a layer (DeepDream).

    Args:
        layer: Name of the layer.
        image: An image file. Empty uses the photograph of a cat that is part of the package.
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept). The dense layers are not used.
        steps: Steps altogether, shared by four sizes of the image. By default 40.
        image_size: Size of the image in pixels, one number or height and width. By default 224 for a VGG's
            convolutions, else the network's.
        seed: Seed of the jitter.
        out: Folder for the image.
    """
    network = load(weights, reading, None)  # only a VGG does without its dense layers
    if image_size is None:
        image_size = 224 if network.model_name.startswith("vgg") else network.image_size
    start = example_image.load_image(Path(image), image_size) if image else example_image.chelsea_face(image_size)
    start = example_image.in_channels(start, network.channels)
    chosen = recipes.recipe("deepdream")
    chosen = chosen if steps is None else recipes.with_steps(chosen, steps)
    if layer not in (shapes := visualization.layer_shapes(network, image_size)):
        visualization.check_channels(shapes, layer, 1)
    make_folder(out)
    drawn = _with_progress(
        chosen.steps,
        lambda tick: visualization.render(
            network,
            visualization.layer(layer),
            recipe=chosen,
            start=start,
            image_size=image_size,
            seed=seed,
            on_progress=tick,
        ),
    )
    _save(drawn, out, f"{layer}.png", [f"layer {layer}"])


COMMANDS: Mapping[str, Callable[..., None]] = {
    "feature-maps": feature_maps,
    "filters": filters,
    "classes": classes,
    "deepdream": deepdream,
}


LUCID_STEPS = 128
"""Most of what the 512 of lucid itself show, in a quarter of the time."""


def _recipe(name: str, what: str, steps: int | None) -> Recipe:
    """A recipe of so many steps. Raises UserError for an unknown one, and for too few steps."""
    chosen = recipes.recipe(name, what)
    steps = LUCID_STEPS if steps is None and chosen.name == "lucid" else steps
    return chosen if steps is None else recipes.with_steps(chosen, steps)


def _default_layers(network: Network) -> list[str]:
    shapes = visualization.layer_shapes(network)
    of_vgg = [name for name in recipes.FEATURE_MAPS if name in shapes]
    return of_vgg or [name for name, shape in shapes.items() if len(shape) == 3]


def _with_progress(steps: int, draw: Callable[..., list[Image]]) -> list[Image]:
    with tqdm(total=steps, unit=" steps", delay=0.5, disable=None) as bar:
        return draw(bar.update)


def _keep(drawn: list[Image], out: Path) -> None:
    """Write the images before they are measured: an image of the data that cannot be read loses none of them."""
    for image in drawn:
        image.save(out)


def _save(drawn: list[Image], out: Path, sheet: str, titles: list[str], heading: str = "") -> None:
    """Write each image and the sheet of all. With a heading, captions say the activations too."""
    captions = []
    for image, title in zip(drawn, titles, strict=True):
        image.save(out)
        facts = image.provenance
        mark = ", inactive" if facts.get("inactive") else ", failed" if facts.get("failed") else ""
        numbers = f"activation {facts['activation_before']:.3g} → {facts['activation_after']:.3g}{mark}"
        print(f"{printable(title)}: {numbers}{describe(image)}")
        captions.append(f"{title}: {facts['activation_after']:.3g}{mark}" if heading else f"{title}{mark}")
    inactive = [bool(image.provenance.get("inactive")) for image in drawn]
    if heading:
        heading = f"{heading}: each filter's number and its activation"
    pixels = [image.pixels for image in drawn]
    figure = figures.image_grid(pixels, captions, out / sheet, inactive=inactive, heading=heading)
    print(printable(f"wrote {figure} and each image beside it, with its provenance"))
