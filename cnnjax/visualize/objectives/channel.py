"""The mean of a channel."""

from dataclasses import dataclass, field

import jax
import numpy as np

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
class Channel(Objective):
    """See `channel`."""

    signed = True
    layer: str = field(metadata=STATIC)
    channel: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        # All means, then one of them: the gradient stays dense, where indexing first would scatter into the maps.
        maps = activation_of(self.layer, activations)
        return maps.reshape(-1, maps.shape[-1]).mean(axis=0)[self.channel]

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, np.asarray(self.channel).tolist())
        return self

    def own_numbers(self) -> Leaf:
        return self.channel

    def describe(self, index: int) -> str:
        return f"channel({self.layer}, {at(self.channel, index)})"

    def facts(self, index: int) -> Facts:
        return {"kind": "filter", "layer": self.layer, "channel": at(self.channel, index)}


def channel(layer: str, channels: Index) -> Objective:
    """The mean of a channel of a layer (article, section 6.2); of a dense layer, one unit.

    channels: a number, or several, each for an image of its own.
    """
    return Channel(layer, indices_of(channels, "channel"))
