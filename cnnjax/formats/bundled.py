"""The networks that come with the package, by name. Their sources and licences: data/CREDITS.md."""

from importlib import resources
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError, unknown
from cnnjax.formats import native
from cnnjax.formats.build import build
from cnnjax.formats.options import Options
from cnnjax.formats.reader import load, reported
from cnnjax.network import Network

VGG16 = "vgg16.int8.safetensors"
VGG16_HEADS = {"vgg16": "vgg16-head.int8.safetensors", "vgg16-twin": "vgg16-twin-head.int8.safetensors"}
NAMES = (*VGG16_HEADS, "vgg16-mini")


def load_bundled(name: str = "vgg16-mini", *, include_top: bool | None = True, **options: Any) -> Network:
    """A network that comes with the package.

    "vgg16": the real one. Its thirteen convolutions are those that Simonyan and Zisserman trained on ImageNet, rounded
    to int8; `cnnjax export imagenet-notop --to int8` makes the same file from the published one. Without `include_top`
    it ends at block5_pool, has no classes and takes images of any size. Its dense layers, trained on the fourteen
    procedural classes at 96 pixels by `python experiments/vgg16_head.py`, are in a file of their own: 76.4% of 1,400
    test images were classified correctly. None as `include_top` takes them if they are there.
    "vgg16-twin": the same convolutions with dense layers of another seed (77.4%), to judge what was drawn for the first
    by a network that was not asked. It is independent in its dense layers only.
    "vgg16-mini": the narrow VGG16, trained on the fourteen procedural classes by `python experiments/train.py
    vgg16-mini` with seed 0, in 13 minutes on two shared CPU cores: 12 epochs of 14,000 images; 81.6% of 1,400
    validation images and 79.6% of 1,400 test images were classified correctly. Its `provenance` has the rest.

    options: those of `load`. With a new_head the real one's dense layers are not looked at.

    Raises UserError, with the nearest names, for another one, and if the package's file is missing or damaged.
    """
    if name not in NAMES:
        raise unknown("bundled network", name, NAMES)
    if name == "vgg16-mini":
        return load(path("vgg16-mini.safetensors"), include_top=include_top, **options)
    head = VGG16_HEADS[name]
    there = _place(head).is_file()
    if options.get("new_head"):
        return load(path(VGG16), include_top=None, **options)
    if include_top is False or (include_top is None and not there):
        return load(path(VGG16), include_top=False, **options)
    if not there:
        raise UserError(
            f"this copy of cnnjax has the convolutions of {name} alone, no classes (no weights/{head}): name "
            "vgg16-mini, or leave out the dense layers"
        )
    return load_with_head(path(VGG16), path(head), **options)


def load_with_head(convolutions: str | Path, head: str | Path, **options: Any) -> Network:
    """The convolutions of one file with the dense layers of another, as `save_int8` writes `layers` of a network.

    The description is that of the second, which is of the whole network. Raises UserError as `load` does.
    """
    convolutions, head = Path(convolutions), Path(head)
    chosen = Options.of(**options)
    with reported(convolutions), native.read(convolutions) as body, reported(head), native.read(head) as top:
        return build(head, top._replace(tensors=body.tensors | top.tensors), chosen)


def path(name: str) -> Path:
    """A file of the package's folder of weights. Raises UserError if it is not there."""
    found = _place(name)
    if not found.is_file():
        raise UserError(f"this copy of cnnjax has no weights/{name}: install it again, or name other weights")
    return found


def _place(name: str) -> Path:
    return Path(str(resources.files("cnnjax") / "weights" / name))
