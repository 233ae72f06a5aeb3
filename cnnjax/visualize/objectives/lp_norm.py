"""How large the values of an image are."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from cnnjax.visualize.objectives.base import STATIC, Objective, power


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LpNorm(Objective):
    """See `lp_norm`."""

    p: float = field(metadata=STATIC)

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return power(jnp.sum(power(jnp.abs(image), self.p)), 1 / self.p) / image.size

    def describe(self, index: int) -> str:
        return f"lp_norm({self.p:g})"


def lp_norm(p: float = 6.0) -> Objective:
    """(Σ|x|^p)^(1/p) / size, as in keras-vis 0.4.1: as a penalty it keeps values small."""
    return LpNorm(float(p))
