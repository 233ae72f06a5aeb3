"""A trained network with all that its pictures and pages need."""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cnnjax import models
from cnnjax.cli.config import ModelConfig
from cnnjax.data.normalize import Cleaning, clean


class Seal:
    """The digest of a network's parameters, computed when it is first asked for: half a second for VGG16."""

    def __init__(self) -> None:
        self._value: str | None = None

    def of(self, params: dict[str, Any]) -> str:
        """The digest, which must always be asked of the same parameters."""
        if self._value is None:
            self._value = digest(flat(params))
        return self._value


class Network(NamedTuple):
    """A trained network with all that its pictures and pages need. Make it with `network`.

    params: nested dict by layer; class_names: empty for a VGG without its dense layers, which has no logits; cleaning:
    how its pictures are prepared, part of the weights; made: how it was trained or where it is from, free-form.
    """

    graph: nnx.GraphDef
    params: dict[str, Any]
    model: ModelConfig
    side: int
    class_names: tuple[str, ...]
    cleaning: Cleaning
    seal: Seal
    made: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of the parameters, in hex."""
        return self.seal.of(self.params)

    def forward(
        self, params: dict[str, Any], images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch ..."], dict[str, Array]]:
        """Logits and activations of display pictures, RGB in [0, 1]: the one place that applies `cleaning`.

        Without dense layers the last feature maps take the logits' place.
        """
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
    """A Network. `made`: JSON-able notes on how it was trained."""
    return Network(graph, params, model, side, tuple(class_names), cleaning, Seal(), made or {})


def digest(arrays: dict[str, Any]) -> str:
    """sha256, in hex, over the arrays' names, types, shapes and bytes, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def flat(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters by path: `block1_conv1/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}
