"""The command `export`: a network for Keras, for PyTorch, or as a StableHLO program that runs wherever JAX does."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from cnnjax import checksums, formats
from cnnjax.cli.weights import Flags, Reading, load
from cnnjax.data import normalize
from cnnjax.printable import printable

_USE = {
    "cnnjax": "use it with --weights {out}",
    "int8": "use it with --weights {out}",
    "keras": "model.load_weights({out!r}) of keras.applications' VGG, or of a model with SmallCNN's layers",
    "torchvision": "model.load_state_dict(safetensors.torch.load_file({out!r}))",
    "stablehlo": (
        "jax.export.deserialize(bytearray(open({out!r}, 'rb').read())).call(tensors, images), with tensors = "
        "safetensors.numpy.load_file({out!r} + '.safetensors')"
    ),
}

_READING = Reading()


def export(
    weights: Annotated[str, tyro.conf.Positional],
    *,
    to: Literal["cnnjax", "int8", "keras", "torchvision", "stablehlo"],
    out: Path,
    include_top: bool = True,
    reading: Flags = _READING,
) -> None:
    """Write a network in the format of another library or of this package.

    Args:
        weights: A weights file, the folder of a run, vgg16 or vgg16-mini, which are part of the package, or imagenet or
            imagenet-notop (downloaded and kept).
        to: The format. int8 is this package's own in a quarter of the space: kernels rounded, with one scale for each
            output channel.
        out: The file to write. Keras requires a name that ends in .weights.h5.
        include_top: Whether to export the dense layers, where there are any.
    """
    network = load(weights, reading, None if include_top else False)
    write = {
        "cnnjax": formats.save,
        "int8": formats.save_int8,
        "keras": formats.save_keras,
        "torchvision": formats.save_torchvision,
        "stablehlo": formats.save_stablehlo,
    }[to]
    write(out, network)
    network_input = normalize.describe(network.normalizer, network.channels)
    if to in ("cnnjax", "int8", "stablehlo"):
        values = {1: "grey values", 3: "display RGB"}.get(network.channels, f"{network.channels} channels")
        print(f"its input is {values} in 0 to 1, which it normalizes itself ({network_input})")
    else:
        print(f"its input is {network_input}")
    height, width = network.image_size
    print(printable(f"wrote {out} ({network.model_name}, {height}×{width} pixels): {_USE[to].format(out=str(out))}"))
    if to == "int8":
        print(f"sha256 {checksums.file_digest(out)}")
