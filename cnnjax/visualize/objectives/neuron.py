"""One position of a map."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from cnnjax.errors import UserError
from cnnjax.visualize.layers import check_channels
from cnnjax.visualize.objectives.base import (
    STATIC,
    Facts,
    Index,
    Leaf,
    Objective,
    Target,
    activation_of,
    at,
    indices_of,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Neuron(Objective):
    """See `neuron`. row and column: -1 for the middle."""

    signed = True
    layer: str = field(metadata=STATIC)
    channel: Leaf
    row: Leaf
    column: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        maps = activation_of(self.layer, activations)
        y = jnp.where(self.row < 0, maps.shape[0] // 2, self.row)
        x = jnp.where(self.column < 0, maps.shape[1] // 2, self.column)
        return maps[y, x, self.channel]

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, np.asarray(self.channel).tolist(), maps=True)
        height, width, _ = target.layers[self.layer]
        if np.max(self.row) >= height or np.max(self.column) >= width:
            raise UserError(
                f"layer {self.layer!r} has maps of {height}×{width}, without row={int(np.max(self.row))}, "
                f"column={int(np.max(self.column))}"
            )
        return self

    def own_numbers(self) -> Leaf:
        return self.channel

    def describe(self, index: int) -> str:
        channel, row, column = (at(v, index) for v in (self.channel, self.row, self.column))
        place = ", ".join("middle" if p < 0 else str(p) for p in (row, column))
        return f"neuron({self.layer}, {channel}, {place})"

    def facts(self, index: int) -> Facts:
        channel, row, column = (at(v, index) for v in (self.channel, self.row, self.column))
        place = {"row": None if row < 0 else row, "column": None if column < 0 else column}
        return {"kind": "neuron", "layer": self.layer, "channel": channel} | place


def neuron(layer: str, channels: Index, row: Index | None = None, column: Index | None = None) -> Objective:
    """A channel of a layer at one position of its map, counted from 0; in the middle by default."""
    return Neuron(layer, indices_of(channels, "channel"), _places(row, "row"), _places(column, "column"))


def _places(numbers: Index | None, what: str) -> Array | np.ndarray:
    """Rows or columns as a leaf. Raises UserError for negative ones, of which -1 would be taken for the middle."""
    if numbers is None:
        return np.asarray([-1], np.int32)
    found = indices_of(numbers, what)
    if not isinstance(found, Tracer) and np.min(found) < 0:
        raise UserError(f"{what}={int(np.min(found))} of neuron must not be negative: count from 0, or leave it out")
    return found
