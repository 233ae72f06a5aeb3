"""What file formats need to know about each architecture: one table, by the names in `models.MODELS`.

A new architecture needs an entry here only if its weights are exchanged with other libraries; this package's own files
can hold any model.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from cnnjax.models import resnet, small_cnn, vgg


class Layer(NamedTuple):
    """A layer that has parameters.

    path: of its parameters, "block1_conv1" or "layer1/0/conv1". kind: "flat" is a dense layer whose inputs are feature
    maps that were flattened. units: its outputs in a model of width 1; 0 where they do not follow from the width.
    torch: the names of the module in PyTorch's state dicts, torchvision's first, then timm's if that differs.
    """

    path: str
    kind: Literal["conv", "norm", "dense", "flat"]
    units: int
    torch: tuple[str, ...]


class Architecture(NamedTuple):
    """One architecture. The last `head` layers are dense.

    halvings: how often the image is halved before the dense layers. optional_top: whether the model can do without its
    dense layers (`include_top=False`). arguments: of its constructor, those that not every model has.
    torch_normalizer, keras_normalizer: what the weights that are published in that format need; None where this package
    does not exchange the architecture with Keras.
    """

    name: str
    layers: tuple[Layer, ...]
    head: int
    halvings: int
    optional_top: bool = False
    arguments: tuple[str, ...] = ()
    torch_normalizer: Literal["none", "imagenet"] = "imagenet"
    keras_normalizer: Literal["none", "caffe"] | None = None

    def paths(self, *, include_top: bool = True) -> list[str]:
        """The layers' paths, in order."""
        return [layer.path for layer in (self.layers if include_top else self.layers[: -self.head])]

    @property
    def fixed_size(self) -> bool:
        """Whether the dense layers fix the size of the images, as they do without global pooling."""
        return any(layer.kind == "flat" for layer in self.layers)

    @property
    def top(self) -> list[str]:
        """The paths of the dense layers."""
        return self.paths()[-self.head :]

    def torch_names(self, library: int = 0) -> dict[str, Layer]:
        """The layers by their names in torchvision (0) or timm (1)."""
        return {layer.torch[min(library, len(layer.torch) - 1)]: layer for layer in self.layers}


def _features(counts: Iterable[int], norm: bool, names: list[list[str]], units: Iterable[int]) -> Iterable[Layer]:
    """Convolutions as torchvision's VGG numbers them: its `features` count relus, norms and poolings too."""
    place = 0
    for block, count, outputs in zip(names, counts, units, strict=True):
        for name in block[:count]:
            yield Layer(name, "conv", outputs, (f"features.{place}",))
            if norm:
                yield Layer(name.replace("conv", "bn"), "norm", outputs, (f"features.{place + 1}",))
            place += 3 if norm else 2
        place += 1


def _small_cnn() -> Architecture:
    """The article's network. torchvision has none: these are the names that its VGG's scheme gives."""
    names = [[f"conv_{i}"] for i in range(1, len(small_cnn.CHANNELS) + 1)]
    layers = (
        *_features((1,) * len(names), False, names, small_cnn.CHANNELS),
        Layer("dense_1", "flat", 512, ("classifier.1",)),
        Layer("dense_2", "dense", 256, ("classifier.3",)),
        Layer("output", "dense", 0, ("classifier.5",)),
    )
    return Architecture("small-cnn", layers, 3, len(names), False, ("dropout",), "none", "none")


def _vgg(depth: int, counts: tuple[int, ...], norm: bool) -> Architecture:
    """Sources: torchvision/models/vgg.py; timm/models/vgg.py, whose first dense layers are convolutions."""
    names = [[f"block{b}_conv{i}" for i in range(1, count + 1)] for b, count in enumerate(counts, 1)]
    layers = (
        *_features(counts, norm, names, vgg.CHANNELS),
        Layer("fc1", "flat", 4096, ("classifier.0", "pre_logits.fc1")),
        Layer("fc2", "dense", 4096, ("classifier.3", "pre_logits.fc2")),
        Layer("predictions", "dense", 0, ("classifier.6", "head.fc")),
    )
    arguments = ("dropout", "dense_units", "include_top")
    name = f"vgg{depth}-bn" if norm else f"vgg{depth}"
    return Architecture(name, layers, 3, 5, True, arguments, keras_normalizer=None if norm else "caffe")


def _resnet(depth: int, counts: tuple[int, ...]) -> Architecture:
    """torchvision's names are the paths; timm's are the same. Source: torchvision/models/resnet.py."""
    bottleneck = depth >= 50
    layers: list[Layer] = []

    def add(path: str, kind: Literal["conv", "norm", "dense"], units: int) -> None:
        layers.append(Layer(path, kind, units, (path.replace("/", "."),)))

    add("conv1", "conv", resnet.CHANNELS[0])
    add("bn1", "norm", resnet.CHANNELS[0])
    for stage, (count, units) in enumerate(zip(counts, resnet.CHANNELS, strict=True), 1):
        # A bottleneck's outputs are a multiple of the scaled units, which rounding makes different from scaled outputs.
        outputs = 0 if bottleneck else units
        for block in range(count):
            path = f"layer{stage}/{block}"
            for number in range(1, 4 if bottleneck else 3):
                add(f"{path}/conv{number}", "conv", outputs if number == 3 else units)
                add(f"{path}/bn{number}", "norm", outputs if number == 3 else units)
            if block == 0 and (stage > 1 or bottleneck):
                add(f"{path}/downsample/0", "conv", outputs)
                add(f"{path}/downsample/1", "norm", outputs)
    add("fc", "dense", 0)
    return Architecture(f"resnet{depth}", tuple(layers), 1, 5)


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _small_cnn(),
        *(_vgg(depth, counts, norm) for norm in (False, True) for depth, counts in vgg.NUM_CONVS.items()),
        *(_resnet(depth, counts) for depth, counts in resnet.NUM_BLOCKS.items()),
    )
}
