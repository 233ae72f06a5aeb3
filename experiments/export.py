"""Take a network elsewhere: to Keras, to PyTorch, or as a StableHLO program that runs wherever JAX does.

    python experiments/export.py runs/vgg16/weights.safetensors --to keras --out vgg16.weights.h5
    python experiments/export.py imagenet --to torchvision --out vgg16.safetensors
    python experiments/export.py runs/cnn-augmented --to stablehlo --out cnn.stablehlo
    python experiments/export.py vgg16-397923af.pth --to cnnjax --out vgg16.safetensors

What can be read: Keras' .h5, .weights.h5 and .keras, PyTorch's .pth, .safetensors with torchvision's, timm's or our
own names, the folder of a run or of one of its checkpoints. A full VGG16 takes half a minute on two CPU cores.
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from cnnjax import formats
from cnnjax.cli import command_line
from cnnjax.data import normalize

USE = {
    "cnnjax": "use it with --weights {out}",
    "keras": "model.load_weights({out!r}) of keras.applications' VGG, or of a model with SmallCNN's layers",
    "torchvision": "model.load_state_dict(safetensors.torch.load_file({out!r}))",
    "stablehlo": (
        "jax.export.deserialize(bytearray(open({out!r}, 'rb').read())).call(tensors, images), with tensors = "
        "safetensors.numpy.load_file({out!r} + '.safetensors')"
    ),
}


def export(
    weights: Annotated[str, tyro.conf.Positional],
    *,
    to: Literal["cnnjax", "keras", "torchvision", "stablehlo"],
    out: Path,
    top: bool = True,
) -> None:
    """Write a network in another library's format.

    Args:
        weights: A file or folder that holds a network, or imagenet.
        to: For whom.
        out: File to write; Keras wants its name to end in .weights.h5.
        top: Whether to take the dense layers too; --no-top must be given for weights that have none.
    """
    network = formats.find(weights, top)
    write = {
        "cnnjax": formats.save,
        "keras": formats.save_keras,
        "torchvision": formats.save_torchvision,
        "stablehlo": formats.save_stablehlo,
    }[to]
    write(out, network)
    given = normalize.told(network.cleaning)
    own = to in ("cnnjax", "stablehlo")
    print(
        f"its pictures are display RGB in 0 to 1: what it does to them is in it ({given})"
        if own
        else f"give it {given}"
    )
    print(f"wrote {out} ({network.model.name}, side {network.side}): {USE[to].format(out=str(out))}")


if __name__ == "__main__":
    command_line.main(export)
