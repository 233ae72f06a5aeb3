"""An image's activations, layer by layer, made visible (article, section 6.1)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from cnnjax.data.as_unit import one_as_unit
from cnnjax.errors import UserError, unknown
from cnnjax.network import Network
from cnnjax.visualize.layers import at_image_size, check_channels, layer_shapes


class FeatureMaps(NamedTuple):
    """Some channels of one layer."""

    maps: UInt8[np.ndarray, "channels height width"]
    """Each channel standardized to mean 128 and standard deviation 64, clipped."""
    channels: tuple[int, ...]
    blank: Bool[np.ndarray, " channels"]
    """The channel has one value everywhere (after relu: zero), so its map shows nothing."""
    mean: Float[np.ndarray, " channels"]
    """Mean activation."""
    largest: Float[np.ndarray, " channels"]
    """Largest activation."""


def feature_maps(
    network: Network,
    image: Shaped[Array | np.ndarray, "..."],
    layers: str | Sequence[str],
    channels: int | np.integer | Sequence[int] | Mapping[str, int | Sequence[int]] = 8,
) -> dict[str, FeatureMaps]:
    """Maps of the named layers for one image (height, width, channels), floats in [0, 1] or uint8.

    layers: several names, or one. channels: the first so many, or a list, for every layer alike or by layer. For an
    image of another size than the network's see `layers.at_image_size`. Raises UserError for unknown layers or
    channels, and for what is no image.
    """
    # Here, since within a compiled program nobody can see that values reach to 255.
    image = one_as_unit(image, network.channels)
    network = at_image_size(network, (image.shape[0], image.shape[1]))
    known = layer_shapes(network)
    layers = (layers,) if isinstance(layers, str) else layers
    if not layers:
        raise UserError("no layer was named: choose some of " + ", ".join(known))
    by_layer = channels if isinstance(channels, Mapping) else dict.fromkeys(layers, channels)
    for layer in by_layer:
        if layer not in known:
            raise unknown("layer", layer, known)
    wanted = {layer: check_channels(known, layer, by_layer.get(layer, 8), maps=True) for layer in layers}
    results = jax.device_get(_maps(network, image.astype(jnp.float32), tuple(wanted)))
    return {
        layer: FeatureMaps(
            maps=results[layer][0][indices],
            channels=tuple(indices),
            blank=results[layer][1][indices],
            mean=results[layer][2][indices],
            largest=results[layer][3][indices],
        )
        for layer, indices in wanted.items()
    }


@partial(jax.jit, static_argnames=("layers",))
def _maps(network: Network, image: jax.Array, layers: tuple[str, ...]) -> dict[str, tuple[jax.Array, ...]]:
    """By layer: maps to show, which are blank, means, and largest values."""
    _, activations = network(image[None])
    results = {}
    for layer in layers:
        maps = jnp.moveaxis(activations[layer][0], -1, 0)
        results[layer] = *standardize(maps), maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))
    return results


def standardize(
    maps: Float[Array, "channels height width"],
) -> tuple[UInt8[Array, "channels height width"], Bool[Array, " channels"]]:
    """Each map as (x - μ)/σ · 64 + 128 clipped to uint8, as the article shows it, and whether it has but one value.

    Such a blank map has no σ; it comes out as 128 everywhere.
    """
    # By its extremes, not by σ: rounding gives a constant map a tiny σ, which would blow the rounding up.
    blank = maps.max(axis=(1, 2)) == maps.min(axis=(1, 2))
    spread = jnp.where(blank, 1.0, maps.std(axis=(1, 2)))[:, None, None]
    centred = jnp.where(blank[:, None, None], 0.0, maps - maps.mean(axis=(1, 2), keepdims=True))
    return jnp.clip(centred / spread * 64 + 128, 0, 255).astype(jnp.uint8), blank
