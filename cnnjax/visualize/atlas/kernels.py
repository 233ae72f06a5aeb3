"""The weights of the first layer as pictures: what its filters look for can be read off them directly."""

import numpy as np
from jaxtyping import UInt8

from cnnjax import models
from cnnjax.network import Network
from cnnjax.visualize.atlas.selection import Layer


def kernel_pictures(network: Network, layer: Layer) -> UInt8[np.ndarray, "filters height width channels"] | None:
    """A layer's kernels as images: grey is 0, and each filter's largest weight by size is 0 or 255.

    Channels are those of the image: the kernels of weights from Caffe, which take blue first, are turned.
    None for a layer whose kernel does not see the image itself, as its receptive field then is larger.
    """
    path, depth = layer.name.replace(".", "/"), network.channels
    for name, array in models.flatten(network.params).items():
        if name.rpartition("/")[0] == path and array.shape == (*(layer.field or ()), depth, layer.channels):
            weights = np.moveaxis(np.asarray(array, np.float32), -1, 0)
            if network.normalizer.kind == "caffe":
                weights = weights[..., ::-1]
            largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
            return np.rint(127.5 + 127.5 * weights / np.where(largest > 0, largest, 1)).astype(np.uint8)
    return None
