"""Trained networks in files: safetensors with what is needed to use them. Nothing is ever unpickled."""

import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from jaxtyping import Array, Float

from cnnjax import models
from cnnjax.config import ModelConfig, as_dict, from_dict
from cnnjax.data.clean import Cleaning, clean
from cnnjax.errors import UserError

VERSION = 1
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as PyTorch and new Keras files are",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file, as Keras' .h5 files are",
}
CLEANING = ("mean", "components", "scales")


class Network(NamedTuple):
    """A trained network with all that its pictures and pages need. Make it with `network`.

    params: nested dict by layer; digest: sha256 of the parameters, in hex; made: how it was trained, free-form.
    """

    graph: nnx.GraphDef
    params: dict[str, Any]
    model: ModelConfig
    side: int
    class_names: tuple[str, ...]
    cleaning: Cleaning
    digest: str
    made: dict[str, Any]

    def forward(
        self, params: dict[str, Any], images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch ..."], dict[str, Array]]:
        """Logits and activations of display pictures, RGB in [0, 1]: cleans them as the training pictures were."""
        return models.apply(self.graph, params, clean(self.cleaning, images))


def network(
    graph: nnx.GraphDef,
    params: dict[str, Any],
    model: ModelConfig,
    side: int,
    class_names: tuple[str, ...],
    cleaning: Cleaning,
    made: dict[str, Any] | None = None,
) -> Network:
    """A Network, its digest computed. `made`: JSON-able notes on how it was trained."""
    return Network(graph, params, model, side, tuple(class_names), cleaning, digest(_flat(params)), made or {})


def digest(arrays: dict[str, Any]) -> str:
    """sha256, in hex, over the arrays' names, types, shapes and bytes, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _flat(params: dict[str, Any]) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def save(path: str | Path, network: Network) -> None:
    """Write a network; an interruption leaves the old file. Raises UserError where it can't be written."""
    path = Path(path)
    params = {f"params/{name}": array for name, array in _flat(network.params).items()}
    cleaning = {f"cleaning/{name}": np.asarray(getattr(network.cleaning, name)) for name in CLEANING}
    about = {
        "version": VERSION,
        "model": as_dict(network.model),
        "side": network.side,
        "class_names": network.class_names,
        "cleaning": network.cleaning.kind,
        "made": network.made,
    }
    text = json.dumps(about, sort_keys=True)
    contents = safetensors.numpy.save(params | cleaning, {"cnnjax": text, "sha256": _checksum(text, params | cleaning)})
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(contents)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose a folder that you may write to") from error


def _checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    return hashlib.sha256((text + digest(tensors)).encode()).hexdigest()


def load(path: str | Path) -> Network:
    """Read what `save` wrote, verified to the last bit.

    Raises UserError for a file that is missing, damaged, of another kind, or does not fit the network that it names.
    """
    path = Path(path)
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}: train one, or give the path of another") from None
    except OSError as error:
        raise UserError(f"cannot read the weights file {path}: {error.strerror}") from error
    text, tensors = _read(path, contents)
    try:
        about = json.loads(text)
        if about["version"] != VERSION:
            raise UserError(
                f"{path} has format version {about['version']}, not {VERSION}: use the cnnjax that wrote it"
            )
        model, side, names = from_dict(ModelConfig, about["model"]), int(about["side"]), tuple(about["class_names"])
        kind, made = about["cleaning"], about["made"]
        cleaning = Cleaning(kind, *(jnp.asarray(tensors.pop(f"cleaning/{name}")) for name in CLEANING))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} lacks part of its description ({error}): train or fetch it again") from error
    graph, expected = models.split(
        nnx.eval_shape(lambda: models.create(model, side=side, num_classes=len(names), seed=0))
    )
    params = _fitted(path, expected, {name.removeprefix("params/"): value for name, value in tensors.items()})
    return network(graph, params, model, side, names, cleaning, made)


def _read(path: Path, contents: bytes) -> tuple[str, dict[str, np.ndarray]]:
    """The description and the tensors of a file, once its checksum holds."""
    damaged = UserError(f"{path} is damaged or incomplete: train or fetch it again")
    remedy = "only .safetensors files that cnnjax wrote can be read"
    for start, kind in FOREIGN.items():
        # A safetensors file starts with the length of its header, and "{" follows.
        if contents.startswith(start) and contents[8:9] != b"{":
            raise UserError(f"{path} is {kind}: {remedy}")
    if len(contents) > 8 and contents[8:9] != b"{":
        raise UserError(f"{path} is not a safetensors file: {remedy}")
    try:
        tensors = safetensors.numpy.load(contents)
        length = int.from_bytes(contents[:8], "little")
        about = json.loads(contents[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if "cnnjax" not in about:
        raise UserError(f"{path} is a safetensors file, but not one of cnnjax's: {remedy}")
    if about.get("sha256") != _checksum(about["cnnjax"], tensors):
        raise damaged
    return about["cnnjax"], tensors


def _fitted(path: Path, expected: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The arrays in the nesting of `expected`."""
    leaves, nesting = jax.tree_util.tree_flatten_with_path(expected)
    names = {"/".join(str(key.key) for key in keys): leaf for keys, leaf in leaves}
    if missing := sorted(names.keys() - arrays.keys()):
        raise UserError(f"{path} lacks {missing[0]}, which its network has: train or fetch it again")
    if extra := sorted(arrays.keys() - names.keys()):
        raise UserError(f"{path} has {extra[0]}, which its network does not have: train or fetch it again")
    for name, leaf in names.items():
        given = (arrays[name].shape, arrays[name].dtype)
        if given != (leaf.shape, leaf.dtype):
            raise UserError(
                f"{path} has {name} as {given[1]} {given[0]}, but its network needs {leaf.dtype} {leaf.shape}"
            )
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{path} has numbers that are not finite in {name}: its training failed; train it again")
    return jax.tree_util.tree_unflatten(nesting, [jnp.asarray(arrays[name]) for name in names])


def shipped() -> Network:
    """The narrow VGG16 that comes with the package, trained by it on its fourteen procedural classes.

    Made by `python experiments/train.py vgg16-mini` with seed 0, in 13 minutes on two CPU cores, other work going on:
    12 epochs of 14,000 pictures; 81.6% of 1,400 validation and 79.6% of 1,400 test pictures were right. `made` tells
    the rest.
    """
    file = resources.files("cnnjax") / "weights" / "vgg16-mini.safetensors"
    with resources.as_file(file) as path:
        if not path.is_file():
            raise UserError(
                "this copy of cnnjax has no weights/vgg16-mini.safetensors: install it again, or give --weights"
            )
        return load(path)
