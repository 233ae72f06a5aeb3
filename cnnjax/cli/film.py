"""The command `film`: an ascent step by step, filters while a network is trained, feature maps layer by layer."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax import figures, formats
from cnnjax import visualize as visualization
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.data import example_image, imagenet
from cnnjax.errors import UserError, missing
from cnnjax.files import make_folder
from cnnjax.printable import printable
from cnnjax.visualize import films, recipes

_READING = Reading()


def ascent(
    *,
    layer: str,
    weights: str = "vgg16",
    reading: Flags = _READING,
    channels: tuple[int, ...] = (),
    recipe: str = "lucid",
    steps: int | None = 128,
    every: int = 4,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    scale: int = 1,
    milliseconds: int = 80,
    out: Path = Path("runs/film-ascent.gif"),
) -> None:
    """Film how images of a layer's filters are optimized, from noise to the end.

    Args:
        layer: Name of the layer.
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        channels: Numbers of the layer's channels. Empty uses eight of them.
        recipe: How the images are optimized.
        steps: Steps of the optimization; None takes the recipe's.
        every: Steps between two frames.
        image_size: Size of the images in pixels, one number or height and width. By default the network's, and 128 for
            convolutions alone.
        seed: Seed of the noise that the optimization starts from.
        scale: Pixels of the film for each pixel of an image, along each side.
        milliseconds: How many milliseconds each frame is shown.
        out: The film, ending in .gif, .webp or .png.
    """
    _check(out, milliseconds, scale)
    recorder, chosen = films.Recorder(every), recipes.recipe(recipe, "filters")
    chosen = chosen if steps is None else recipes.with_steps(chosen, steps)
    network = load(weights, reading, None)
    if image_size is None and not network.class_names and network.model_name.startswith("vgg"):
        image_size = 128
    shapes = visualization.layer_shapes(network, image_size)
    count = shapes.get(layer, (1,))[-1]
    numbers = visualization.check_channels(shapes, layer, channels or recipes.filters_of(layer, count))
    make_folder(out.parent)
    with tqdm(total=len(numbers) * chosen.steps, unit=" steps", delay=0.5, disable=None) as bar:
        visualization.render(
            network, visualization.channel(layer, numbers), recipe=chosen, image_size=image_size, seed=seed,
            frames=recorder, on_progress=bar.update,
        )  # fmt: skip
    _save(films.tile(recorder.films()), out, milliseconds, scale)


def training(
    *,
    run: Path,
    layer: str,
    channels: tuple[int, ...] = (),
    recipe: str = "lucid",
    steps: int | None = 96,
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    scale: int = 1,
    milliseconds: int = 250,
    out: Path = Path("runs/film-training.gif"),
) -> None:
    """Film the images of filters, drawn after each epoch of a training run.

    All are drawn from the same noise, so what differs is the network.

    Args:
        run: The folder of a run that kept the weights of its epochs (`cnnjax train --train.weights-every-epochs 1`), or
            any folder of weights files, in the order of their names.
        layer: Name of the layer.
        channels: Numbers of the layer's channels. Empty uses eight of them.
        recipe: How the images are optimized.
        steps: Steps of the optimization; None takes the recipe's.
        image_size: Size of the images in pixels, one number or height and width. By default the network's.
        seed: Seed of the noise that the optimization starts from.
        scale: Pixels of the film for each pixel of an image, along each side.
        milliseconds: How many milliseconds each frame is shown.
        out: The film, ending in .gif, .webp or .png.
    """
    _check(out, milliseconds, scale)
    if not run.exists():
        raise missing("there is no run", run, "train one with --train.weights-every-epochs 1")
    kept = (run / "weights").is_dir()
    if not kept and any((run / name).exists() for name in ("config.json", "input.safetensors")):
        raise UserError(
            f"the run {run} has no weights of its epochs, only those of the best one: train with "
            "--train.weights-every-epochs 1, which keeps them"
        )
    files = sorted((run / "weights" if kept else run).glob("*.safetensors"))
    if len(files) < 2:
        raise UserError(
            f"{run} has the weights of {len(files)} epochs, and a film needs two: train with "
            "--train.weights-every-epochs 1"
        )
    networks = [formats.load(file) for file in files]
    shapes = visualization.layer_shapes(networks[0], image_size)
    count = shapes.get(layer, (1,))[-1]
    numbers = visualization.check_channels(shapes, layer, channels or recipes.filters_of(layer, count))
    make_folder(out.parent)
    print(f"drawing {len(numbers)} filters of {len(files)} states of the network together")
    made = films.of_training(
        networks, visualization.channel(layer, numbers), recipe=recipe, steps=steps, image_size=image_size, seed=seed,
        titles=[file.stem for file in files],
    )  # fmt: skip
    _save(films.tile(made), out, milliseconds, scale)


def feature_maps(
    *,
    weights: str = "vgg16",
    reading: Flags = _READING,
    image: str = "",
    layer: tuple[str, ...] = (),
    channels: int = 16,
    image_size: int | tuple[int, int] | None = None,
    milliseconds: int = 900,
    out: Path = Path("runs/film-feature-maps.gif"),
) -> None:
    """Film the feature maps of an image, one layer after the other.

    Args:
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet
            (downloaded and kept).
        image: An image file. Empty uses the photograph of a cat that is part of the package.
        layer: Names of the layers. Empty uses all that have maps.
        channels: How many of the first channels of each layer.
        image_size: Size of the image in pixels, one number or height and width, for networks that take any size. By
            default 150 for a VGG's convolutions, else the network's.
        milliseconds: How many milliseconds each frame is shown.
        out: The film, ending in .gif, .webp or .png.
    """
    _check(out, milliseconds)
    network = load(weights, reading, None)
    if image_size is None:
        image_size = 150 if network.model_name.startswith("vgg") else network.image_size
    crop = imagenet.crop(network.class_names)
    pixels = (
        example_image.load_image(Path(image), image_size, crop) if image else example_image.chelsea_face(image_size)
    )
    pixels = example_image.in_channels(pixels, network.channels)
    shapes = visualization.layer_shapes(network, image_size)
    layers = layer or tuple(name for name, shape in shapes.items() if len(shape) == 3)
    maps = visualization.feature_maps(network, pixels, layers, channels)
    make_folder(out.parent)
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, found) in enumerate(maps.items()):
            # Without a limit, so that all frames have one resolution.
            path = figures.feature_map_grid({name: found}, Path(folder) / f"{number}.png", limit=None)
            with Image.open(path) as opened:
                frames.append(opened.convert("RGB"))
    width, height = (max(frame.size[axis] for frame in frames) for axis in (0, 1))
    board = np.full((len(frames), height, width, 3), 255, np.uint8)
    for place, frame in zip(board, frames, strict=True):
        place[: frame.height, : frame.width] = np.asarray(frame)
    _save(films.Film(board), out, milliseconds, 1)


COMMANDS: Mapping[str, Callable[..., None]] = {"ascent": ascent, "training": training, "feature-maps": feature_maps}


def _check(out: Path, milliseconds: int, scale: int = 1) -> None:
    """Raises UserError for what cannot be written, before anything is computed."""
    if out.suffix.lower() not in films.FORMATS:
        raise UserError(f"--out {out} is no film that can be written: end its name in {', '.join(films.FORMATS)}")
    films.check_numbers(milliseconds, scale)


def _save(film: films.Film, out: Path, milliseconds: int, scale: int) -> None:
    path = film.save(out, milliseconds, scale)
    with Image.open(path) as opened:
        width, height = opened.size
    print(printable(f"wrote {path}: {len(film.frames)} frames of {width}×{height}, {path.stat().st_size / 1e6:.1f} MB"))
