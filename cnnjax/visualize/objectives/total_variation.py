"""How rough an image is."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from cnnjax.visualize.objectives.base import STATIC, Objective, power


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class TotalVariation(Objective):
    """See `total_variation`."""

    beta: float = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        down = image[1:, :-1] - image[:-1, :-1]
        right = image[:-1, 1:] - image[:-1, :-1]
        squares = down**2 + right**2
        return jnp.sum(squares if self.beta == 2 else power(squares, self.beta / 2)) / image.size

    def describe(self, index: int) -> str:
        return f"total_variation({self.beta:g})"


def total_variation(beta: float = 2.0) -> Objective:
    """Σ((Δh)² + (Δw)²)^(β/2) / size over neighbouring pixels, as in keras-vis 0.4.1 (Mahendran & Vedaldi 2015)."""
    return TotalVariation(float(beta))
