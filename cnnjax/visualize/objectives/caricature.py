"""An image that exaggerates what a layer sees in another one."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.network import Network
from cnnjax.visualize.objectives.base import STATIC, Facts, Leaf, Objective, Target, at
from cnnjax.visualize.objectives.direction import dot_times_cosine
from cnnjax.visualize.objectives.references import References, activations_of_images, check_reference


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Caricature(Objective):
    """See `caricature`."""

    layer: str = field(metadata=STATIC)
    activation: Leaf
    cosine_power: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        power = jnp.asarray(self.cosine_power)
        return dot_times_cosine(activations[self.layer], jnp.asarray(self.activation), power).mean()

    def bind(self, target: Target) -> Objective:
        check_reference(target.layers, self.layer, self.activation)
        return self

    def describe(self, index: int) -> str:
        return f"caricature({self.layer}, {at(self.cosine_power, index):g})"

    def facts(self, index: int) -> Facts:
        return {"kind": "caricature", "layer": self.layer, "cosine_power": at(self.cosine_power, index)}


def caricature(network: Network, images: References, layer: str, cosine_power: float = 1.0) -> Objective:
    """The dot product with an image's activation times their cosine to this power, position by position, as a mean.

    So an image aligns with another one in a layer, and exaggerates what the layer sees there (lucid's caricatures).
    images: one (height, width, channels) or several, uint8 or floats in [0, 1], each for an image of its own. Draw at
    their size. The activations are those after relu.
    """
    return Caricature(layer, activations_of_images(network, images, layer), np.asarray([cosine_power], np.float32))
