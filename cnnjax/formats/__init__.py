"""Trained networks in files: the world's and ours, both ways. Nothing is ever unpickled or executed."""

from importlib import resources
from pathlib import Path

from cnnjax.errors import UserError, unknown
from cnnjax.formats import published
from cnnjax.formats.formats import load
from cnnjax.formats.keras_writer import save_keras
from cnnjax.formats.native import save
from cnnjax.formats.network import Network, digest, network
from cnnjax.formats.stablehlo import save_stablehlo
from cnnjax.formats.torch_writer import save_torchvision

__all__ = [
    "Network",
    "digest",
    "find",
    "load",
    "network",
    "save",
    "save_keras",
    "save_stablehlo",
    "save_torchvision",
    "shipped",
]


def shipped() -> Network:
    """The narrow VGG16 that comes with the package, trained by it on its fourteen procedural classes.

    Made by `python experiments/train.py vgg16-mini` with seed 0, in 13 minutes on two CPU cores, other work going on:
    12 epochs of 14,000 pictures; 81.6% of 1,400 validation and 79.6% of 1,400 test pictures were right. `made` tells
    the rest.
    """
    file = resources.files("cnnjax") / "weights" / "vgg16-mini.safetensors"
    with resources.as_file(file) as path:
        if not path.is_file():
            raise UserError(
                "this copy of cnnjax has no weights/vgg16-mini.safetensors: install it again, or give --weights"
            )
        return load(path)


def find(weights: str, top: bool = True) -> Network:
    """The network that `--weights` asks for: "" is the shipped one, a name in `published.FILES` one that is fetched and
    kept, anything else a path. Without `top` it has no dense layers; of imagenet-notop there are none.

    Raises UserError where there is none, or its file cannot be fetched or read.
    """
    if not weights:
        return shipped()
    if weights in published.FILES:
        return load(published.fetch(weights), top=top and not weights.endswith("-notop"))
    if not Path(weights).exists() and Path(weights).name == Path(weights).stem == weights:
        raise unknown("weights", weights, published.FILES)
    return load(weights, top=top)
