"""Networks in a quarter of the space: this package's own format with int8 kernels. `formats.load` reads it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax import checksums, models
from cnnjax.errors import UserError
from cnnjax.formats import description, int8, native, safetensors_io
from cnnjax.formats.description import KEY
from cnnjax.network import Json, Network

ROUNDING = "kernels int8, symmetric, one float32 scale for each output channel"
VGG16_CONVOLUTIONS = (
    "d7878fac8915d02d7f9bc781f24f6e79b80a0efbb9f4c82e5e11a9dcfca45272",
    "fa34d9a7a0851a5a121c4f80fc649140f2c4a97108e4723db1971cab3a5d7ade",
)
"""`convolutions_digest` of VGG16's published convolutions, and of the same after rounding."""
VGG16_CREDIT: dict[str, Json] = {
    "title": "VGG16, trained on ImageNet (ILSVRC-2014)",
    "credit": "Karen Simonyan and Andrew Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition "
    "(arXiv:1409.1556); converted from Caffe for Keras (keras.applications.VGG16)",
    "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    "changes": "kernels rounded to int8 by cnnjax",
}
_PLACES = ("from", "file", "left out", "assumed")
"""Notes of `formats.load` on the file that a network came from. What it assumed of the published ones is true."""


def save_int8(path: str | Path, network: Network, *, layers: Sequence[str] = ()) -> None:
    """Write a network in about a quarter of its size: kernels as int8, all else as `formats.save` writes it.

    Every float32 parameter of two axes or more is rounded as `int8.quantize` describes; its scales are stored as
    "scales/params/…". `formats.load` gives float32 again. The same network gives the same bytes, whatever the file was
    called that it came from. The published convolutions of VGG16 are recognised by their digest, and their authors are
    credited in the description. layers: with names ("fc1"), only the parameters of these layers are written; the file
    is then a part of a network, as `formats.load_bundled` puts one together.

    Raises UserError for parameters that are not finite, or if the file cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, array in native.arrays(network).items():
        if layers and name.startswith("params/") and name.split("/")[1] not in layers:
            continue
        if not int8.is_rounded(name, array):
            tensors[name] = array
            continue
        try:
            tensors[name], tensors[int8.SCALES + name] = int8.quantize(array)
        except ValueError as error:
            where = name.removeprefix("params/")
            raise UserError(
                f"{path} is not written: {where} has numbers that are not finite: train it again"
            ) from error
    text = json.dumps(description.write(network) | {"provenance": _provenance(network)}, sort_keys=True)
    safetensors_io.write(path, tensors, {KEY: text, "sha256": native.checksum(text, tensors)})


def convolutions_digest(network: Network) -> str:
    """sha256 over the kernels and biases of a VGG's convolutions, whatever its dense layers are."""
    convolutions = {name: leaves for name, leaves in network.params.items() if "_conv" in str(name)}
    return checksums.digest(models.flatten(convolutions))


def _provenance(network: Network) -> dict[str, Json]:
    """Where a network came from, without the names of files."""
    notes: dict[str, Json] = {name: value for name, value in network.provenance.items() if name != "file"}
    if convolutions_digest(network) in VGG16_CONVOLUTIONS:
        notes = {name: value for name, value in notes.items() if name not in _PLACES} | VGG16_CREDIT
    return notes | {"rounding": ROUNDING}
