"""A direction in the space of a layer's channels."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.visualize.layers import check_channels
from cnnjax.visualize.objectives.base import STATIC, Facts, Leaf, Objective, Target, activation_of, at

EPSILON = 1e-4
LEAST_COSINE = 0.1
"""Of lucid: a position whose cosine is smaller, or negative, still has a gradient."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Direction(Objective):
    """See `direction`."""

    signed = True
    layer: str = field(metadata=STATIC)
    vector: Leaf
    cosine_power: Leaf

    def value(self, logits: jax.Array, activations: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        maps = activation_of(self.layer, activations)
        return dot_times_cosine(maps, jnp.asarray(self.vector), jnp.asarray(self.cosine_power)).mean()

    def bind(self, target: Target) -> Objective:
        check_channels(target.layers, self.layer, 1)
        channels = target.layers[self.layer][-1]
        if np.shape(self.vector)[-1] != channels:
            raise UserError(
                f"a direction of layer {self.layer!r} has a number for each of its {channels} channels, not "
                f"{np.shape(self.vector)[-1]}"
            )
        return self

    def describe(self, index: int) -> str:
        power = at(self.cosine_power, index)
        return f"direction({self.layer}, {self._digest(index)}{f', {power:g}' if power else ''})"

    def facts(self, index: int) -> Facts:
        power = at(self.cosine_power, index)
        return {"kind": "direction", "layer": self.layer, "vector": self._digest(index), "cosine_power": power}

    def _digest(self, index: int) -> str:
        """A short name for the vector, which follows from its values."""
        vectors = np.asarray(self.vector, np.float32)
        return f"{zlib.crc32(vectors[0 if len(vectors) == 1 else index].tobytes()):08x}"


def direction(
    layer: str, vector: Sequence[float] | Sequence[Sequence[float]] | np.ndarray | jax.Array, cosine_power: float = 0.0
) -> Objective:
    """The mean over a layer's positions of the dot product with a vector, times their cosine to this power (lucid).

    The dot product alone also grows with activations that have little of the direction; the cosine holds them back.
    vector: a number for each channel; or several such vectors, each for an image of its own.
    """
    vectors = jnp.atleast_2d(vector) if isinstance(vector, jax.Array) else np.atleast_2d(np.asarray(vector, np.float32))
    if vectors.ndim != 2:
        raise UserError(f"a direction is a vector, or several in an array (images, channels), not {vectors.shape}")
    return Direction(layer, vectors, np.asarray([cosine_power], np.float32))


def dot_times_cosine(x: jax.Array, y: jax.Array, cosine_power: jax.Array) -> jax.Array:
    """x · y times their cosine to a power, over the last axis: lucid's `dot_cossim`."""
    y = jnp.broadcast_to(y.astype(x.dtype), x.shape)
    dot = jnp.sum(x * y, axis=-1)
    cosine = dot / (EPSILON + _length(x)) / (EPSILON + _length(y))
    return dot * jnp.maximum(cosine, LEAST_COSINE) ** cosine_power.astype(x.dtype)


def _length(x: jax.Array) -> jax.Array:
    """The Euclidean length over the last axis, whose gradient at 0 is 0."""
    square = jnp.sum(x**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
