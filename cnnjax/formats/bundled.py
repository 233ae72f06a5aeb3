"""The networks that come with the package, by name. Their sources and licences: data/CREDITS.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from cnnjax.errors import UserError, unknown
from cnnjax.formats import native
from cnnjax.formats.build import Options, build
from cnnjax.formats.reader import load, reported
from cnnjax.network import Network

VGG16 = "vgg16.int8.safetensors"
VGG16_HEAD = "vgg16-head.int8.safetensors"
NAMES = ("vgg16", "vgg16-mini")


def load_bundled(name: str = "vgg16-mini", *, include_top: bool | None = True) -> Network:
    """A network that comes with the package.

    "vgg16": the real one. Its thirteen convolutions are those that Simonyan and Zisserman trained on ImageNet, rounded
    to int8; `cnnjax export imagenet-notop --to int8` makes the same file from the published one. Without `include_top`
    it ends at block5_pool, has no classes and takes images of any size.
    "vgg16-mini": the narrow VGG16, trained on the fourteen procedural classes by `python experiments/train.py
    vgg16-mini` with seed 0, in 13 minutes on two shared CPU cores: 12 epochs of 14,000 images; 81.6% of 1,400
    validation images and 79.6% of 1,400 test images were classified correctly. Its `provenance` has the rest.

    Raises UserError, with the nearest names, for another one, and if the package's file is missing or damaged.
    """
    if name not in NAMES:
        raise unknown("bundled network", name, NAMES)
    include_top = include_top is not False  # both have dense layers
    if name == "vgg16-mini":
        with _file("vgg16-mini.safetensors") as path:
            return load(path, include_top=include_top)
    with _file(VGG16) as convolutions:
        if not include_top:
            return load(convolutions, include_top=False)
        with _file(VGG16_HEAD) as head:
            return _together(convolutions, head)


def _together(convolutions: Path, head: Path) -> Network:
    """The convolutions of one file with the dense layers of another, whose description is that of the whole."""
    with (
        reported(convolutions),
        native.read(convolutions) as body,
        reported(head),
        native.read(head) as top,
    ):
        whole = top._replace(tensors=body.tensors | top.tensors)
        return build(head, whole, Options(include_top=True))


@contextmanager
def _file(name: str) -> Iterator[Path]:
    with resources.as_file(resources.files("cnnjax") / "weights" / name) as path:
        if not path.is_file():
            raise UserError(f"this copy of cnnjax has no weights/{name}: install it again, or name other weights")
        yield path
