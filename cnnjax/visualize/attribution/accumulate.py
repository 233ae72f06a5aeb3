"""The one loop under all attribution methods: for each image a sum over samples, such as masks or steps of a path."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from cnnjax.network import Network
from cnnjax.train import strategy as strategies
from cnnjax.train.strategy import Strategy


class Rows(NamedTuple):
    """Some pairs of an image and a sample, each a row of the batch that the network is given.

    images: in [0, 1]. extra: further arrays of each image, such as the baseline of its path. samples: the number of
    each row's sample. shared: arrays that all rows have in common.
    """

    images: Float[Array, "rows height width channels"]
    classes: Int[Array, " rows"]
    extra: PyTree
    samples: Int[Array, " rows"]
    shared: PyTree


@runtime_checkable
class Contribution(Protocol):
    """What one sample adds to the map of its image. Equal ones share a compiled program."""

    def map_shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a map for an image of a shape (height, width, channels)."""
        ...

    def __call__(self, network: Network, rows: Rows) -> Float[Array, "rows ..."]: ...


def accumulate(
    contribution: Contribution,
    network: Network,
    images: Float[Array | np.ndarray, "images height width channels"],
    classes: Int[np.ndarray, " images"],
    *,
    extra: PyTree = (),
    shared: PyTree = (),
    samples: int = 1,
    batch_size: int = 16,
) -> Float[np.ndarray, "images ..."]:
    """For each image the sum of `contribution` over its samples 0 to samples - 1.

    The network is given `batch_size` rows at a time, or the next multiple of the number of devices, each of which takes
    an equal part. What is kept on the devices besides is as many images and maps at most. One program serves all calls
    of the same contribution, shapes and number of rows.
    """
    strategy = strategies.rows_strategy(min(batch_size, len(images) * samples))
    rows = -(-min(batch_size, len(images) * samples) // strategy.devices) * strategy.devices
    slots = min(rows, len(images))
    shape = contribution.map_shape(images.shape[1:])
    fixed = strategies.replicate(strategy, (network, shared))
    every = jax.tree.map(np.asarray, (np.asarray(images, np.float32), classes, extra))
    found = []
    for first in range(0, len(images), slots):
        count = min(slots, len(images) - first)
        chosen = first + np.minimum(np.arange(slots), count - 1)
        block = strategies.replicate(strategy, jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], every))
        total = strategies.replicate(strategy, np.zeros((slots, *shape), np.float32))
        for part in _parts(count * samples, samples, rows):
            total = _advance(contribution, strategy, total, (*fixed, block), part)
            jax.block_until_ready(total)  # two calls with an all-reduce must not be in flight
        found.append(np.asarray(total)[:count])
    return np.concatenate(found)


def _parts(total: int, samples: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(place of the image in its block, number of the sample, whether it is one) of all rows, in equal batches."""
    for first in range(0, total, size):
        numbers = np.arange(first, first + size)
        real = numbers < total
        numbers = np.minimum(numbers, total - 1)
        yield (numbers // samples).astype(np.int32), (numbers % samples).astype(np.int32), real


@partial(jax.jit, static_argnames=("contribution", "strategy"))
def _advance(
    contribution: Contribution, strategy: Strategy, total: Array, fixed: PyTree, part: PyTree
) -> Float[Array, "slots ..."]:
    return total + strategies.sum_over_rows(strategy, partial(_sum, contribution, len(total)))(fixed, part)


def _sum(
    contribution: Contribution,
    slots: int,
    fixed: PyTree,
    part: tuple[Int[Array, " rows"], Int[Array, " rows"], Bool[Array, " rows"]],
) -> Float[Array, "slots ..."]:
    network, shared, block = fixed
    slot, sample, real = part
    images, classes, extra = jax.tree.map(lambda leaf: leaf[slot], block)
    values = contribution(network, Rows(images, classes, extra, sample, shared))
    values = jnp.where(real.reshape(-1, *[1] * (values.ndim - 1)), values, 0)
    return jax.ops.segment_sum(values.astype(jnp.float32), slot, slots)
