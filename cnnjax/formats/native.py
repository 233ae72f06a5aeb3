"""Our own files: safetensors with all that is needed to use a network, and a checksum over it."""

import hashlib
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cnnjax.data.normalize import Cleaning, of_colours
from cnnjax.formats import atomic_write, description
from cnnjax.formats.description import KEY
from cnnjax.formats.lazy_tensors import Contents, Damaged, Tensor, blocks, whole
from cnnjax.formats.network import Network, digest, flat

CLEANING = ("mean", "components", "scales")


def save(path: str | Path, network: Network) -> None:
    """Write a network; an interruption leaves the old file. Raises UserError where it can't be written."""
    tensors = arrays(network)
    text = json.dumps(description.write(network) | {"cleaning": network.cleaning.kind}, sort_keys=True)
    atomic_write.safetensors(path, tensors, {KEY: text, "sha256": checksum(text, tensors)})


def arrays(network: Network) -> dict[str, np.ndarray]:
    """All numbers of a network, by the names they have in its file."""
    cleaning = {f"cleaning/{name}": np.asarray(getattr(network.cleaning, name)) for name in CLEANING}
    return {f"params/{name}": array for name, array in flat(network.params).items()} | cleaning


def checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    """sha256 over the description and the arrays."""
    return hashlib.sha256((text + digest(tensors)).encode()).hexdigest()


def contents(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Contents:
    """What `save` wrote, verified to the last bit. Raises Damaged when it is not."""
    text = metadata.get(KEY, "")
    if metadata.get("sha256") != hashlib.sha256((text + _digest(tensors)).encode()).hexdigest():
        raise Damaged("its checksum does not hold")
    try:
        about = json.loads(text)
        if "cleaning" in about:
            parts = [jnp.asarray(whole(tensors.pop(f"cleaning/{name}"))) for name in CLEANING]
            about["cleaning"] = Cleaning(about["cleaning"], *parts)
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"its description lacks {error}") from error
    names = {name: name.removeprefix("params/") for name in tensors}
    params = {ours: tensors[name]._replace(name=ours) for name, ours in names.items()}
    return Contents("a file of cnnjax", params, [], of_colours("none"), about)


def _digest(tensors: dict[str, Tensor]) -> str:
    """`digest` of arrays in a file."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name}:{tensors[name].dtype.str}:{tensors[name].shape};".encode())
        for rows in blocks(tensors[name]):
            total.update(rows.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
