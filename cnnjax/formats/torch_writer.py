"""Networks as PyTorch reads them: a state dict with torchvision's names, in safetensors."""

from pathlib import Path

import numpy as np

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.formats import description, safetensors_io
from cnnjax.formats.architectures import ARCHITECTURES, Architecture
from cnnjax.formats.torch_names import torch_name
from cnnjax.network import Network


def save_torchvision(path: str | Path, network: Network) -> None:
    """Write a state dict for `load_state_dict(safetensors.torch.load_file(path))`.

    The names are torchvision's; those of SmallCNN follow the same rule: `features.0`, `.3`, `.6`, `.9` for the
    convolutions, each of which has relu and pooling after it, and `classifier.1`, `.3`, `.5` for the dense layers after
    dropout. `num_batches_tracked` is 0. The metadata hold this package's description; whoever uses the file must do the
    preprocessing that it names.
    Raises UserError for a model that is not of this package, for zca whitening, or if the file cannot be written.
    """
    path = Path(path)
    architecture = known_architecture(network, "save_torchvision")
    text = description.write_complete(path, network)
    layers = {layer.path: layer for layer in architecture.layers}
    tensors: dict[str, np.ndarray] = {}
    for name, array in (models.flatten(network.params) | models.flatten(network.model_state)).items():
        layer_path, _, kind = name.rpartition("/")
        layer, array = layers[layer_path], np.asarray(array)
        if kind == "kernel" and layer.kind == "flat":
            height, width = (size >> architecture.halvings for size in network.image_size)
            array = array.reshape(height, width, -1, array.shape[1]).transpose(3, 2, 0, 1).reshape(array.shape[::-1])
        elif kind == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        tensors[torch_name(layer, kind)] = array
        if kind == "mean":
            tensors[f"{layer.torch[0]}.num_batches_tracked"] = np.zeros((), np.int64)
    safetensors_io.write(path, tensors, {"format": "pt", description.KEY: text})


def known_architecture(network: Network, function: str) -> Architecture:
    """The table's entry for a network. Raises UserError if its model is of another package."""
    if network.config is None or network.model_name not in ARCHITECTURES:
        raise UserError(
            f"{function} needs to know the names of the layers, and {network!r} is no model of this package: use "
            "save, or save_stablehlo"
        )
    return ARCHITECTURES[network.model_name]
