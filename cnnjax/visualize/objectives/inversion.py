"""The image that a layer's activation came from."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from cnnjax.network import Network
from cnnjax.visualize.objectives.base import STATIC, Facts, Leaf, Objective, Target
from cnnjax.visualize.objectives.references import References, activations_of_images, check_reference

EPSILON = 1e-12


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Inversion(Objective):
    """See `inversion`."""

    layer: str = field(metadata=STATIC)
    activation: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        target = jnp.asarray(self.activation).astype(image.dtype)
        difference = activations[self.layer].astype(image.dtype) - target
        return -jnp.sum(difference**2) / (jnp.sum(target**2) + EPSILON)

    def bind(self, target: Target) -> Objective:
        check_reference(target.layers, self.layer, self.activation)
        return self

    def describe(self, index: int) -> str:
        return f"inversion({self.layer})"

    def facts(self, index: int) -> Facts:
        return {"kind": "inversion", "layer": self.layer}


def inversion(network: Network, images: References, layer: str) -> Objective:
    """-‖a(x) - a(x₀)‖² / ‖a(x₀)‖², where a is a layer's activation: what the layer keeps of an image.

    images: x₀, one image (height, width, channels) or several, uint8 or floats in [0, 1], each for an image of its own.
    Draw at their size. The activation is taken after relu: what relu removed is not known of it. Mahendran, Vedaldi:
    "Understanding deep image representations by inverting them" (2015).
    """
    return Inversion(layer, activations_of_images(network, images, layer))
