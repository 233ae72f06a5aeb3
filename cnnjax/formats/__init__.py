"""Trained networks in files, of this package and of others, both ways. Nothing is ever unpickled or executed."""

from importlib import resources
from pathlib import Path

from cnnjax.errors import UserError, unknown
from cnnjax.formats import published
from cnnjax.formats.keras_writer import save_keras
from cnnjax.formats.native import save
from cnnjax.formats.reader import load
from cnnjax.formats.stablehlo import save_stablehlo
from cnnjax.formats.torch_writer import save_torchvision
from cnnjax.network import Network

__all__ = ["load", "load_bundled", "resolve", "save", "save_keras", "save_stablehlo", "save_torchvision"]


def load_bundled() -> Network:
    """The narrow VGG16 that comes with the package, trained on its fourteen procedural classes.

    Made by `python experiments/train.py vgg16-mini` with seed 0, in 13 minutes on two shared CPU cores: 12 epochs of
    14,000 images; 81.6% of 1,400 validation images and 79.6% of 1,400 test images were classified correctly. Its
    `provenance` has the rest.
    """
    file = resources.files("cnnjax") / "weights" / "vgg16-mini.safetensors"
    with resources.as_file(file) as path:
        if not path.is_file():
            raise UserError(
                "this copy of cnnjax has no weights/vgg16-mini.safetensors: install it again, or name other weights"
            )
        return load(path)


def resolve(weights: str, include_top: bool = True) -> Network:
    """The network that a string names: "" the bundled one, a name in `published.FILES` one that is downloaded and
    cached, anything else a path. Without `include_top` it has no dense layers; "imagenet-notop" never has any.

    Raises UserError if there is none, or its file cannot be downloaded or read.
    """
    if not weights:
        return load_bundled()
    if weights in published.FILES:
        return load(published.fetch(weights), include_top=include_top and not weights.endswith("-notop"))
    if not Path(weights).exists() and Path(weights).name == Path(weights).stem == weights:
        raise unknown("weights", weights, published.FILES)
    return load(weights, include_top=include_top)
