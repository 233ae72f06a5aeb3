"""Our networks as PyTorch reads them: a state dict with torchvision's names, in safetensors."""

import math
from pathlib import Path

import numpy as np

from cnnjax.formats import atomic_write, description, torch_names
from cnnjax.formats.network import Network


def save_torchvision(path: str | Path, network: Network) -> None:
    """Write a state dict for `load_state_dict(safetensors.torch.load_file(path))`.

    A VGG's names are torchvision's. SmallCNN's follow the same rule: `features.0`, `.3`, `.6`, `.9` for convolutions,
    each with relu and pooling after it, and `classifier.1`, `.3`, `.5` for dense layers after a dropout. The metadata
    keep our description; the user of the file must do the preprocessing that it names.
    Raises UserError for zca whitening, or where it can't be written.
    """
    path = Path(path)
    text = description.text(path, network)
    names, tensors, shapes = torch_names.modules(network.model), {}, {}
    channels, flat = 0, True
    for layer, arrays in network.params.items():
        kernel, name = np.asarray(arrays["kernel"]), f"{names[layer]}.weight"
        if kernel.ndim == 4:
            tensors[name], channels = kernel.transpose(3, 2, 0, 1), kernel.shape[-1]
        elif flat:
            side, shapes[name], flat = math.isqrt(len(kernel) // channels), kernel.shape[::-1], False
            tensors[name] = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
        else:
            tensors[name] = kernel.T
        tensors[f"{names[layer]}.bias"] = np.asarray(arrays["bias"])
    atomic_write.safetensors(path, tensors, {"format": "pt", description.KEY: text}, shapes)
