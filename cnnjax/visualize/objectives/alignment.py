"""How alike neighbours in a batch are."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.visualize.layers import check_channels
from cnnjax.visualize.objectives.base import STATIC, Leaf, Objective, Target, at

REACH = 4
"""How far from each other neighbours may be (lucid)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Alignment(Objective):
    """See `alignment`."""

    joint = True
    layer: str = field(metadata=STATIC)
    decay: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        """Of an image alone: it has no neighbours."""
        return jnp.zeros((), image.dtype)

    def values(self, logits: jax.Array, activations: dict[str, jax.Array], images: jax.Array) -> Float[Array, " batch"]:
        maps = activations[self.layer].astype(images.dtype).reshape(len(images), -1)
        total = jnp.zeros(len(maps), maps.dtype)
        for distance in range(1, min(REACH, len(maps) - 1) + 1):
            squares = ((maps[distance:] - maps[:-distance]) ** 2).mean(axis=1)
            weighted = squares / jnp.asarray(self.decay)[distance:].astype(maps.dtype) ** distance
            total = total.at[distance:].add(weighted).at[:-distance].add(weighted)
        return -total / 2

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, 1)
        return self

    def describe(self, index: int) -> str:
        return f"alignment({self.layer}, {at(self.decay, index):g})"


def alignment(layer: str, decay: float = 2.0) -> Objective:
    """Minus the mean squared difference of a layer's activation to neighbours in the batch up to 4 places away (lucid).

    For a row of images that are to change little from one to the next, such as directions from one to another. Each
    step away divides a neighbour's weight by `decay`. The sum over the batch is lucid's `alignment`. As with
    `diversity`, all objectives of the call are one batch, on one device. To align images with a given one, see
    `caricature`.
    """
    return Alignment(layer, jnp.asarray([decay], jnp.float32))
