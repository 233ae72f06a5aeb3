"""Every filter's activations over a data set, in one pass and in bounded memory.

Of each image and channel two numbers are used: the mean of the channel's map, which is what a filter's picture is
optimized for, and its largest value, with its place. All results are exact: of a quantile near 1 it is enough to keep
the largest values, and their number follows from the number of images.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from cnnjax import runtime
from cnnjax.data.dataset import ArraySplit, Split
from cnnjax.network import Images, Network
from cnnjax.train import strategy as strategies
from cnnjax.train.strategy import Strategy
from cnnjax.visualize.stages import Progress

QUANTILE = 0.999
PATCHES = 9


class Measured(NamedTuple):
    """A layer's channels for some images."""

    mean: Float[Array | np.ndarray, "batch channels"]
    """Of the map."""
    lowest: Float[Array | np.ndarray, "batch channels"]
    highest: Float[Array | np.ndarray, "batch channels"]
    unit: Int32[Array | np.ndarray, "batch channels"]
    """Where in the map the highest value is: row · width + column."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Statistics:
    """A layer's channels over the images seen so far.

    mean and squares: the mean, and the sum of squared deviations from it, of the images' mean activations.
    lowest, highest: of all units. means: the largest mean activations, descending; enough of them for `quantile`.
    patch_values: the nine largest activations of a unit, descending, each of another image; patch_images and
    patch_units: the numbers of the images, -1 where there are fewer than nine, and the units (row · width + column).
    """

    count: Float[Array | np.ndarray, ""]
    mean: Float[Array | np.ndarray, " channels"]
    squares: Float[Array | np.ndarray, " channels"]
    lowest: Float[Array | np.ndarray, " channels"]
    highest: Float[Array | np.ndarray, " channels"]
    means: Float[Array | np.ndarray, "channels kept"]
    patch_values: Float[Array | np.ndarray, "channels patches"]
    patch_images: Int32[Array | np.ndarray, "channels patches"]
    patch_units: Int32[Array | np.ndarray, "channels patches"]

    @property
    def deviation(self) -> Float[Array | np.ndarray, " channels"]:
        """Standard deviation of the images' mean activations."""
        return (self.squares / self.count) ** 0.5

    @property
    def fires(self) -> Bool[np.ndarray, " channels"]:
        """Whether the images make a channel fire: its activations are not all the same."""
        return np.asarray(self.highest) > np.asarray(self.lowest)

    @property
    def rectified(self) -> bool:
        """Whether the layer's activations are never negative, as after relu: then 0 is silence."""
        return bool(np.min(self.lowest) >= 0)

    @property
    def quantile(self) -> Float[Array | np.ndarray, " channels"]:
        """The 99.9th percentile of the images' mean activations, exact and interpolated linearly (as NumPy's)."""
        from_top = (float(self.count) - 1) * (1 - QUANTILE)
        above = int(from_top)
        below = min(above + 1, self.means.shape[1] - 1)
        part = from_top - above
        return self.means[:, above] * (1 - part) + self.means[:, below] * part


def measure(network: Network, images: Images, layers: Sequence[str]) -> dict[str, Measured]:
    """The channels of some layers for a batch of images; pure."""
    _, activations = network(images)
    found = {}
    for layer in layers:
        maps = activations[layer]
        units = maps.reshape(maps.shape[0], -1, maps.shape[-1])
        highest = jnp.argmax(units, axis=1).astype(jnp.int32)
        found[layer] = Measured(units.mean(axis=1), units.min(axis=1), units.max(axis=1), highest)
    return found


def init(channels: int, images: int) -> Statistics:
    """Statistics before the first of so many images."""
    kept = min(images, math.floor((images - 1) * (1 - QUANTILE)) + 2)

    def full(*shape: int, value: float = -np.inf) -> np.ndarray:
        return np.full(shape, value, np.float32)

    return Statistics(
        count=full(value=0.0),
        mean=full(channels, value=0.0),
        squares=full(channels, value=0.0),
        lowest=full(channels, value=np.inf),
        highest=full(channels),
        means=full(channels, kept),
        patch_values=full(channels, PATCHES),
        patch_images=np.full((channels, PATCHES), -1, np.int32),
        patch_units=np.zeros((channels, PATCHES), np.int32),
    )


def update(
    found: Statistics, batch: Measured, numbers: Int32[Array, " batch"], valid: Bool[Array, " batch"]
) -> Statistics:
    """The statistics with a batch added, without those of its images that are not `valid`; pure."""
    present, weight = valid[:, None], valid[:, None].astype(jnp.float32)
    count = found.count + weight.sum()
    # Chan's formula for two sets keeps what a running sum of squares would lose.
    mean = (weight * batch.mean).sum(axis=0) / jnp.maximum(weight.sum(), 1.0)
    delta = mean - found.mean
    squares = (weight * (batch.mean - mean[None]) ** 2).sum(axis=0)
    squares += delta**2 * found.count * weight.sum() / count
    means = jnp.concatenate([found.means, jnp.where(present, batch.mean, -jnp.inf).T], axis=1)
    values = jnp.concatenate([found.patch_values, jnp.where(present, batch.highest, -jnp.inf).T], axis=1)
    top, places = jax.lax.top_k(values, PATCHES)  # of equal ones the first
    images = jnp.broadcast_to(jnp.where(valid, numbers, -1)[None], batch.unit.T.shape)

    def choose(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jnp.concatenate([old, new], axis=1), places, axis=1)

    return Statistics(
        count=count,
        mean=found.mean + delta * weight.sum() / count,
        squares=found.squares + squares,
        lowest=jnp.minimum(found.lowest, jnp.where(present, batch.lowest, jnp.inf).min(axis=0)),
        highest=jnp.maximum(found.highest, jnp.where(present, batch.highest, -jnp.inf).max(axis=0)),
        means=jax.lax.top_k(means, found.means.shape[1])[0],
        patch_values=top,
        patch_images=choose(cast(Array, found.patch_images), images),
        patch_units=choose(cast(Array, found.patch_units), cast(Array, batch.unit.T)),
    )


@partial(jax.jit, static_argnames=("layers", "strategy"))
def add_batch(
    network: Network,
    found: dict[str, Statistics],
    images: Array,
    numbers: Int32[Array, " batch"],
    valid: Bool[Array, " batch"],
    layers: tuple[str, ...],
    strategy: Strategy,
) -> dict[str, Statistics]:
    """The statistics of all layers with a batch added, whose images are shared out among the devices."""
    batch = strategies.map_rows(strategy, partial(measure, layers=layers))(network, images)
    return {layer: update(found[layer], batch[layer], numbers, valid) for layer in layers}


@partial(jax.jit, static_argnames=("layers",))
def measure_pictures(network: Network, images: Array, layers: tuple[str, ...]) -> dict[str, Measured]:
    """`measure`, compiled."""
    return measure(network, images, layers)


def collect(
    network: Network,
    images: Split,
    layers: Mapping[str, int],
    *,
    batch_size: int = 32,
    devices: Sequence[Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Statistics]:
    """The statistics of some layers, given with their numbers of channels, over all images of a split, in one pass.

    One program is compiled. devices: those among which each batch is divided; by default all of this process.
    on_progress: called with the number of images done since its last call.
    """
    there = list(devices or jax.local_devices())
    strategy = strategies.make_strategy("mesh", len(there), there)
    batch_size = -(-min(batch_size, len(images)) // len(there)) * len(there)
    found = {layer: init(channels, len(images)) for layer, channels in layers.items()}
    network, found = strategies.place_fixed(strategy, (network, found))
    for pixels, numbers, valid in _batches(images, batch_size):
        some = strategies.place_rows(strategy, pixels)
        found = add_batch(network, found, some, numbers, valid, tuple(layers), strategy)
        if on_progress is not None:
            jax.block_until_ready(found)
            on_progress(int(valid.sum()))
    host: dict[str, Statistics] = jax.device_get(found)
    return {
        layer: replace(one, patch_images=np.where(np.isneginf(one.patch_values), -1, one.patch_images))
        for layer, one in host.items()
    }


def _batches(images: Split, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(images, their numbers, which of them are there) of equal size; the next is read while one is worked on."""
    with ThreadPoolExecutor(runtime.cores()) as threads, ThreadPoolExecutor(1) as ahead:

        def read(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            numbers = np.arange(first, first + size)
            there = numbers < len(images)
            chosen = np.minimum(numbers, len(images) - 1)
            if isinstance(images, ArraySplit):
                pixels = np.asarray(images.images[chosen])
            else:
                pixels = np.stack(list(threads.map(lambda i: read_image(images, i), chosen.tolist())))
            return pixels, numbers.astype(np.int32), there

        coming = ahead.submit(read, 0)
        for first in range(0, len(images), size):
            batch = coming.result()
            if first + size < len(images):
                coming = ahead.submit(read, first + size)
            yield batch


def read_image(images: Split, number: int) -> np.ndarray:
    """One image of a split, (height, width, channels)."""
    image = np.asarray(images[number]["image"])
    return image[..., None] if image.ndim == 2 else image
