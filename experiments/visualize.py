"""Look into one trained network: feature maps of a picture, filters and classes by gradient ascent on the input.

    python experiments/visualize.py feature-maps --layer block1_conv1 block3_conv1 --channels 0 1 2 3
    python experiments/visualize.py filters --layer block3_conv3 --channels 4 8 15 --recipe quick
    python experiments/visualize.py classes --names hammer "tennis ball" --weights runs/vgg16-mini/weights.safetensors

With --weights imagenet it is the article's VGG16, fetched once; `--names lamp` then means "table lamp", as there.
--weights takes what `cnnjax.formats.load` reads: Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors of
torchvision, timm or cnnjax, the folder of a run. What is drawn is a display picture, RGB, and each network is given it
as its weights want it; --recipe article feeds Caffe's weights raw, as the article did.
Without --weights it is the small VGG16 that is part of the package, without --image its cat photograph. Every drawn
picture is saved as PNG with its provenance inside and as JSON beside it, and all of them on one sheet.

Two CPU cores with other work going on, the package's VGG16: 8 filters of block5_conv3 at 96², 500 steps, take 46 s; the
article's 12 classes at 64², 600 steps, 42 s.
"""

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from cnnjax import figures, formats
from cnnjax.article.stage_cache import make_folder
from cnnjax.cli import command_line
from cnnjax.data import example_image, imagenet
from cnnjax.visualize import feature_maps, image_io, layers, recipes, render


def show_feature_maps(
    *,
    weights: str = "",
    image: str = "",
    layer: tuple[str, ...] = (),
    channels: tuple[int, ...] = (),
    side: int = 150,
    top: bool = True,
    out: Path = Path("runs/feature-maps"),
) -> None:
    """Show how a picture is transformed, layer by layer.

    Args:
        weights: A weights file, or imagenet (fetched and kept); empty takes the VGG16 that is part of the package.
        image: A picture file; empty takes the cat photograph.
        layer: Which layers; empty takes the first convolution of each block, or all of a small network.
        channels: Which channels of each layer; empty takes the first eight.
        side: Side of the picture that a VGG's convolutions see; other networks take their own.
        top: Whether the weights have dense layers to read; imagenet-notop has none, and is a tenth in size.
        out: Folder to write.
    """
    make_folder(out)
    network = formats.find(weights, top)
    if network.model.name == "small-cnn":
        side = network.side
    crop = imagenet.crop(network.class_names)
    shown = example_image.load_picture(Path(image), side, crop) if image else example_image.chelsea_face(side)
    maps = feature_maps.compute(network, shown, layer or _default_layers(network), channels or 8)
    for name, found in maps.items():
        dead = [channel for channel, d in zip(found.channels, found.dead, strict=True) if d]
        print(f"{name}: {found.maps.shape[1]}×{found.maps.shape[2]}, dead channels: {dead or 'none'}")
    print(f"wrote {figures.feature_map_grid(maps, out / 'feature-maps.png')}")


def draw_filters(
    *,
    layer: str,
    weights: str = "",
    channels: tuple[int, ...] = (),
    recipe: str = "filters",
    side: int = 0,
    top: bool = True,
    seed: int = 0,
    out: Path = Path("runs/filters"),
) -> None:
    """Draw what a layer's filters want to see.

    Args:
        layer: Which layer.
        weights: A weights file, or imagenet (fetched and kept); empty takes the VGG16 that is part of the package.
        channels: Which of its channels; empty takes eight.
        recipe: How; article is the article's way, which feeds raw pictures to weights that came from Caffe.
        side: Side of the pictures, where only a VGG's convolutions are needed; 0 takes the network's.
        top: Whether the weights have dense layers to read; imagenet-notop has none, and is a tenth in size.
        seed: Of the noise that the ascent starts from.
        out: Folder to write.
    """
    make_folder(out)
    network, how = formats.find(weights, top), recipes.recipe(recipe, "filters")
    print(render.told(network, how))
    base = layers.at_side(network, side or None)
    known = layers.shapes(base)
    wanted = layers.require(known, layer, channels or recipes.filters_of(layer, known.get(layer, (1,))[-1]))
    how = recipes.at_side(how, base.side)
    drawn = _draw(
        len(wanted) * how.steps,
        lambda tick: render.filters(network, layer, wanted, how, seed, base.side, on_progress=tick),
    )
    _save(drawn, out, f"{layer}.png", [f"filter {p.provenance['channel']}" for p in drawn])


def draw_classes(
    *,
    names: tuple[str, ...] = (),
    weights: str = "",
    recipe: str = "classes",
    seed: int = 0,
    out: Path = Path("runs/classes"),
) -> None:
    """Draw what a network takes for its classes.

    Args:
        names: Which classes; empty takes the article's twelve, or the network's first twelve.
        weights: A weights file, or imagenet (fetched and kept); empty takes the VGG16 that is part of the package.
        recipe: How; article is the article's way, which feeds raw pictures to weights that came from Caffe.
        seed: Of the noise that the ascent starts from.
        out: Folder to write.
    """
    make_folder(out)
    network = formats.find(weights)
    how = recipes.at_side(recipes.recipe(recipe, "classes"), network.side)
    print(render.told(network, how))
    names = recipes.classes_of(network.class_names, names)
    drawn = _draw(len(names) * how.steps, lambda tick: render.classes(network, names, how, seed, on_progress=tick))
    titles = [f"{p.provenance['class']} {p.provenance['probability_after']:.0%}" for p in drawn]
    _save(drawn, out, "classes.png", titles)


def _default_layers(network: formats.Network) -> list[str]:
    known = layers.shapes(network)
    return [name for name in recipes.FEATURE_MAPS if name in known] or [n for n, s in known.items() if len(s) == 3]


def _draw(steps: int, draw: Callable[..., list[image_io.Picture]]) -> list[image_io.Picture]:
    with tqdm(total=steps, unit=" steps", delay=0.5) as bar:
        return draw(bar.update)


def _save(drawn: list[image_io.Picture], out: Path, sheet: str, titles: list[str]) -> None:
    dead = [p.provenance.get("dead", False) for p in drawn]
    for picture, title in zip(drawn, titles, strict=True):
        image_io.save(picture, out / image_io.file_name(picture))
        facts = picture.provenance
        mark = ", dead" if facts.get("dead") else ""
        print(f"{title}: activation {facts['activation_before']:.3g} → {facts['activation_after']:.3g}{mark}")
    print(f"wrote {figures.picture_grid([p.image for p in drawn], titles, out / sheet, dead=dead)}")


if __name__ == "__main__":
    command_line.main({"feature-maps": show_feature_maps, "filters": draw_filters, "classes": draw_classes})
