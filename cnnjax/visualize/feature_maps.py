"""A picture's activations, layer by layer, made visible (article, section 6.1)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from cnnjax.errors import UserError
from cnnjax.visualize import layers as layers_


class FeatureMaps(NamedTuple):
    """Some channels of one layer."""

    maps: UInt8[np.ndarray, "channels height width"]
    """Each channel standardised to mean 128 and deviation 64, clipped."""
    channels: tuple[int, ...]
    dead: Bool[np.ndarray, " channels"]
    """The channel has one value everywhere (after relu: zero), so its map shows nothing."""
    mean: Float[np.ndarray, " channels"]
    """Mean activation."""
    largest: Float[np.ndarray, " channels"]
    """Largest activation."""


def compute(
    network: Any,
    image: Float[Array | np.ndarray, "side side 3"],
    layers: Sequence[str],
    channels: int | Sequence[int] | Mapping[str, int | Sequence[int]] = 8,
) -> dict[str, FeatureMaps]:
    """Maps of the named layers for one picture, RGB in [0, 1].

    channels: the first so many, or a list, for every layer alike or by layer. A picture of another side than the
    network's is shown to its convolutions alone. Raises UserError for unknown layers or channels.
    """
    network = layers_.at_side(network, image.shape[0])
    known = layers_.shapes(network)
    if not layers:
        raise UserError("no layer was named: choose some of " + ", ".join(known))
    wanted = {
        layer: layers_.require(
            known, layer, channels.get(layer, 8) if isinstance(channels, Mapping) else channels, maps=True
        )
        for layer in layers
    }
    arrays, rest = layers_.pack(network)
    results = jax.device_get(_maps(arrays, rest, jnp.asarray(image, jnp.float32), tuple(wanted)))
    return {
        layer: FeatureMaps(
            maps=results[layer][0][indices],
            channels=tuple(indices),
            dead=results[layer][1][indices],
            mean=results[layer][2][indices],
            largest=results[layer][3][indices],
        )
        for layer, indices in wanted.items()
    }


@partial(jax.jit, static_argnums=(1, 3))
def _maps(arrays: list[jax.Array], rest: Any, image: jax.Array, layers: tuple[str, ...]) -> dict[str, Any]:
    network = layers_.unpack(arrays, rest)
    _, activations = network.forward(network.params, image[None])
    results = {}
    for layer in layers:
        maps = jnp.moveaxis(activations[layer][0], -1, 0)
        shown, dead = standardise(maps)
        results[layer] = shown, dead, maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))
    return results


def standardise(
    maps: Float[Array, "channels height width"],
) -> tuple[UInt8[Array, "channels height width"], Bool[Array, " channels"]]:
    """Each map as (x - μ)/σ · 64 + 128 clipped to uint8, as the article shows it, and whether it has but one value.

    Such a dead map has no σ; it comes out as 128 everywhere.
    """
    # By its extremes, not by σ: rounding gives a constant map a tiny σ, which would blow the rounding up.
    dead = maps.max(axis=(1, 2)) == maps.min(axis=(1, 2))
    spread = jnp.where(dead, 1.0, maps.std(axis=(1, 2)))[:, None, None]
    centred = jnp.where(dead[:, None, None], 0.0, maps - maps.mean(axis=(1, 2), keepdims=True))
    return jnp.clip(centred / spread * 64 + 128, 0, 255).astype(jnp.uint8), dead
