"""The 1,000 classes of ImageNet's ILSVRC-2012, which the published VGG16s tell apart."""

from importlib import resources


def class_names() -> tuple[str, ...]:
    """The classes' names in the order of the networks' outputs, no two alike: "tench" is 0, "toilet tissue" 999.

    They are torchvision's (see CREDITS.md), which give both cranes and both maillots a name of their own. Class k is
    the k-th synset by its WordNet number, in Caffe, Keras, PyTorch and timm alike.
    """
    return tuple((resources.files("cnnjax.data") / "imagenet.txt").read_text("utf8").splitlines())
