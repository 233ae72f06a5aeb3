"""This package's own files: safetensors with everything that a network needs, and a checksum over it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cnnjax import models
from cnnjax.checksums import digest, digest_of_blocks, to_numpy
from cnnjax.data.normalize import Normalizer, identity
from cnnjax.formats import description, int8, safetensors_io, torch_names
from cnnjax.formats.description import KEY
from cnnjax.formats.lazy_tensors import Contents, Damaged, Tensor, blocks, read_all
from cnnjax.network import Network

PARTS = ("mean", "components", "scales")
"""Of a normalizer."""


def save(path: str | Path, network: Network) -> None:
    """Write a network as safetensors: parameters, model state, normalizer, and a description as JSON.

    The file holds any model. One that is not of this package is noted by the name of its class, and `formats.load`
    then needs the model itself. Tensors are named "params/…", "model_state/…" and "normalizer/…"; the description is
    under "cnnjax" in the metadata, and under "sha256" a checksum over all of it. An interruption leaves the previous
    file. Raises UserError if the file cannot be written.
    """
    tensors = arrays(network)
    text = json.dumps(description.write(network), sort_keys=True)
    safetensors_io.write(path, tensors, {KEY: text, "sha256": checksum(text, tensors)})


def arrays(network: Network) -> dict[str, np.ndarray]:
    """All arrays of a network, by their names in its file."""
    params = {f"params/{name}": to_numpy(array) for name, array in models.flatten(network.params).items()}
    state = {f"model_state/{name}": to_numpy(array) for name, array in models.flatten(network.model_state).items()}
    normalizer = {f"normalizer/{name}": np.asarray(getattr(network.normalizer, name)) for name in PARTS}
    return params | state | normalizer


def checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    """sha256 over the description and the arrays."""
    return hashlib.sha256((text + digest(tensors)).encode()).hexdigest()


def with_arrays(network: Network, tensors: Mapping[str, Array]) -> Network:
    """The network with these arrays, named as in its file, in place of its own."""

    def wrapped(own: Array, new: Array) -> Array:
        if not jnp.issubdtype(own.dtype, jax.dtypes.prng_key):
            return new
        return jax.random.wrap_key_data(new, impl=jax.random.key_impl(own))

    params = nested(network.params, tensors, "params/")
    state = jax.tree.map(wrapped, network.model_state, nested(network.model_state, tensors, "model_state/"))
    normalizer = Normalizer(network.normalizer.kind, *(tensors[f"normalizer/{part}"] for part in PARTS))
    return network.replace(params=params, model_state=state, normalizer=normalizer)


def nested(like: Mapping[Any, Any], arrays: Mapping[str, Any], prefix: str = "") -> dict[Any, Any]:
    """The arrays in the nesting of `like`, by the names that lead to them, joined by "/"."""
    return {
        key: nested(value, arrays, f"{prefix}{key}/") if isinstance(value, dict) else arrays[f"{prefix}{key}"]
        for key, value in like.items()
    }


@contextmanager
def read(path: Path) -> Iterator[Contents]:
    """A safetensors file of this package, or with PyTorch's names. Raises Damaged or Refused."""
    with safetensors_io.tensors(path) as (tensors, metadata):
        if any(name.startswith(("params/", "normalizer/", "cleaning/")) for name in tensors):
            yield _contents(tensors, metadata)
            return
        try:
            fields = json.loads(metadata[KEY]) if KEY in metadata else None
        except (ValueError, RecursionError) as error:
            raise Damaged("its description is not JSON") from error
        if fields is not None and not isinstance(fields, dict):
            raise Damaged("its description is not a JSON object")
        yield torch_names.contents("safetensors with PyTorch's names", tensors, fields)


def _contents(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Contents:
    """What `save` or `save_int8` wrote, in this edition or the first, verified to the last bit."""
    text = metadata.get(KEY, "")
    found = digest_of_blocks((name, t.dtype, t.shape, blocks(t)) for name, t in sorted(tensors.items()))
    if metadata.get("sha256") != hashlib.sha256((text + found).encode()).hexdigest():
        raise Damaged("its checksum does not hold")
    try:
        fields = json.loads(text)
        name = description.field("normalizer", fields)
        if name in fields:
            parts = [jnp.asarray(read_all(tensors.pop(f"{name}/{part}"))) for part in PARTS]
            fields[name] = Normalizer(fields[name], *parts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"its description lacks {error}") from error
    named: dict[str, Tensor] = {}
    for name, tensor in int8.with_scales(tensors).items():
        ours = name.removeprefix("params/").removeprefix("model_state/")
        if ours in named:
            raise Damaged(f"{ours} occurs twice")
        named[ours] = tensor._replace(name=ours)
    return Contents("a file of cnnjax", named, [], identity(), fields)
