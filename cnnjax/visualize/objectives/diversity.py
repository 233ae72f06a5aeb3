"""How much the images of a batch differ."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.visualize.layers import check_channels
from cnnjax.visualize.objectives.base import STATIC, Objective, Target

EPSILON = 1e-10


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Diversity(Objective):
    """See `diversity`."""

    joint = True
    layer: str = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        """Of an image alone: there is no other to resemble."""
        return jnp.zeros((), image.dtype)

    def values(self, logits: jax.Array, activations: dict[str, jax.Array], images: jax.Array) -> Float[Array, " batch"]:
        maps = activations[self.layer].astype(images.dtype)
        maps = maps.reshape(len(maps), -1, maps.shape[-1])
        grams = jnp.einsum("bpc,bpd->bcd", maps, maps).reshape(len(maps), -1)
        grams /= jnp.sqrt(jnp.maximum(jnp.sum(grams**2, axis=1, keepdims=True), EPSILON))
        cosines = grams @ grams.T * (1 - jnp.eye(len(maps), dtype=grams.dtype))
        return -cosines.sum(axis=1) / max(len(maps) - 1, 1)

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, 1, maps=True)
        return self

    def describe(self, index: int) -> str:
        return f"diversity({self.layer})"


def diversity(layer: str) -> Objective:
    """Minus the mean cosine of the Gram matrices of a layer with those of the other images of the batch (lucid).

    Drawn several times together, a channel shows the different things that it responds to:
    `channel("conv_2", [7] * 4) + 5 * diversity("conv_2")`. Each image then starts from its own noise. All objectives of
    the call are one batch, on one device, whatever batch_size is, since each image depends on all others.
    """
    return Diversity(layer)
