"""Our networks as Keras 3 reads them: `.weights.h5`."""

from pathlib import Path

import h5py
import numpy as np

from cnnjax.errors import UserError
from cnnjax.formats import atomic_write, description
from cnnjax.formats.network import Network


def save_keras(path: str | Path, network: Network) -> None:
    """Write `NAME.weights.h5` for `load_weights` of keras.applications' VGG, or of a model with SmallCNN's layers.

    Keras finds a layer by its kind and place: `layers/conv2d_1/vars/0` is the second convolution's kernel. The file
    keeps our description too, but Keras does not do what it says about the preprocessing: its user must.
    Raises UserError for another file name, zca whitening, or where it can't be written.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise UserError(f"Keras only reads weights from a file named so: call it {path.name.split('.')[0]}.weights.h5")
    text = description.text(path, network)

    def write(partial: Path) -> None:
        with h5py.File(partial, "w") as file:
            file.attrs[description.KEY] = text
            counts = {"conv2d": 0, "dense": 0}
            for name, layer in network.params.items():
                kind = "conv2d" if layer["kernel"].ndim == 4 else "dense"
                place = f"{kind}_{counts[kind]}" if counts[kind] else kind
                counts[kind] += 1
                group = file.create_group(f"layers/{place}/vars")
                group.attrs["name"] = name
                group["0"], group["1"] = np.asarray(layer["kernel"]), np.asarray(layer["bias"])

    atomic_write.whole(path, write)
