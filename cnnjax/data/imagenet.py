"""ImageNet (ILSVRC-2012), on which the published VGG16s were trained: its 1,000 classes and how images are cropped."""

import functools
from importlib import resources

CROP = 224 / 256
"""The short side is resized to 256 pixels and the middle 224 × 224 taken (torchvision's and timm's evaluation)."""


@functools.cache
def class_names() -> tuple[str, ...]:
    """The classes' names in the order of the networks' outputs, no two alike: "tench" is 0, "toilet tissue" 999.

    They are torchvision's (see CREDITS.md), which give both cranes and both maillots a name of their own. Class k is
    the k-th synset by its WordNet number, in Caffe, Keras, PyTorch and timm alike.
    """
    return tuple((resources.files("cnnjax.data") / "imagenet.txt").read_text("utf8").splitlines())


def crop(names: tuple[str, ...]) -> float:
    """The `crop` of `decode` for a network with these classes: `CROP` if they are ImageNet's, else 0 (no cropping).

    It belongs to the classes and not to the convolutions: a new head on ImageNet's convolutions is trained on images
    that this package resized.
    """
    return CROP if names == class_names() else 0.0
