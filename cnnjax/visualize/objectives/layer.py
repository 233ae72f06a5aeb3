"""A whole layer."""

from dataclasses import dataclass, field

import jax

from cnnjax.visualize.layers import check_channels
from cnnjax.visualize.objectives.base import STATIC, Facts, Objective, Target, activation_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Layer(Objective):
    """See `layer`."""

    signed = True
    layer: str = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return (activation_of(self.layer, activations) ** 2).mean()

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, 1)
        return self

    def describe(self, index: int) -> str:
        return f"layer({self.layer})"

    def facts(self, index: int) -> Facts:
        return {"kind": "layer", "layer": self.layer}


def layer(layer: str) -> Objective:
    """The mean of the squares of a layer's activation: whatever it sees, it shall see more of (DeepDream).

    Before relu (`render`'s before_relu) the squares of negative values count, too.
    """
    return Layer(layer)
