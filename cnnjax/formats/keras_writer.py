"""Networks as Keras 3 reads them: `.weights.h5`."""

from pathlib import Path

import h5py
import numpy as np

from cnnjax.errors import UserError
from cnnjax.files import atomic_write
from cnnjax.formats import description
from cnnjax.formats.torch_writer import known_architecture
from cnnjax.network import Network


def save_keras(path: str | Path, network: Network) -> None:
    """Write `NAME.weights.h5` for `load_weights` of keras.applications' VGG, or of a model with SmallCNN's layers.

    Keras finds a layer by its kind and place: `layers/conv2d_1/vars/0` is the kernel of the second convolution. The
    file also holds this package's description, but Keras does not do the preprocessing that it names: its user must.
    Raises UserError for another file name, a model that Keras does not have, zca whitening, or if the file cannot be
    written.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise UserError(
            f"Keras only reads weights from a file whose name ends in .weights.h5: call it "
            f"{path.name.split('.')[0]}.weights.h5"
        )
    architecture = known_architecture(network, "save_keras")
    if architecture.keras_normalizer is None:
        raise UserError(
            f"Keras' format is written of SmallCNN and of VGG without batch normalization, not of "
            f"{architecture.name}: write it for torchvision or as stablehlo instead"
        )
    text = description.write_complete(path, network)

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs[description.KEY] = text
            counts = {"conv2d": 0, "dense": 0}
            for layer in architecture.layers:
                arrays = network.params.get(layer.path)
                if arrays is None:  # without its dense layers
                    continue
                kind = "conv2d" if layer.kind == "conv" else "dense"
                place = f"{kind}_{counts[kind]}" if counts[kind] else kind
                counts[kind] += 1
                group = file.create_group(f"layers/{place}/vars")
                group.attrs["name"] = layer.path
                group["0"], group["1"] = np.asarray(arrays["kernel"]), np.asarray(arrays["bias"])

    atomic_write(path, write)
