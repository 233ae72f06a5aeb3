"""The order of examples, and batches of a resident split: it stays on the devices, and only the indices are sent.

The order is a function of (key, position in an endless stream): pass p goes through the split in the order of
permutation p. So an epoch may have any number of steps, and a batch may extend over the end of a pass.
"""

from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Key

from cnnjax.data.dataset import ArraySplit, Examples
from cnnjax.errors import UserError


def steps_per_epoch(configured: int | None, batch_size: int, size: int) -> int:
    """The number of steps in an epoch: as configured or, by default, the full batches in one pass over `size` images.

    Raises UserError when a batch is larger than the data.
    """
    if batch_size > size:
        raise UserError(f"batch_size={batch_size} is larger than the {size} training images: use {size} or less")
    return configured or size // batch_size


@partial(jax.jit, static_argnums=2)
def _permutation(key: Key[Array, ""], number: Int[Array, ""], size: int) -> Int32[Array, " size"]:
    return jax.random.permutation(jax.random.fold_in(key, number), size)


def key_data(key: Key[Array, ""]) -> tuple[int, ...]:
    """A key as plain integers, which can be sent to another process."""
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@lru_cache(maxsize=2)
def _pass(words: tuple[int, ...], number: int, size: int) -> np.ndarray:
    # On the host, where it need not queue behind a training program. Without a CPU backend, on JAX's default device.
    hosts = jax.local_devices(backend="cpu") if "cpu" in (jax.config.jax_platforms or "cpu") else [None]
    with jax.default_device(hosts[0]):
        key = jax.random.wrap_key_data(np.array(words, np.uint32))
        return np.asarray(_permutation(key, number, size))


def example_indices(
    key: Key[Array, ""] | tuple[int, ...], start: int, count: int, size: int
) -> Int32[np.ndarray, " count"]:
    """Indices of the stream's examples `start` to `start + count`: example n is permutation_{n // size}[n % size].

    `key` may also be given as its `key_data`.
    """
    if count == 0:
        return np.zeros(0, np.int32)
    key = key if isinstance(key, tuple) else key_data(key)
    first, last = start // size, (start + count - 1) // size
    passes = [_pass(key, number, size) for number in range(first, last + 1)]
    # JAX permutes 64-bit numbers where these are enabled.
    return np.concatenate(passes)[start - first * size :][:count].astype(np.int32)


def padded_batches(
    size: int, batch_size: int
) -> tuple[Int32[np.ndarray, "batches batch"], Bool[np.ndarray, "batches batch"]]:
    """Every index of a split once, in order, in full batches, and a mask that is False for the padding of the last."""
    batches = -(-size // batch_size)
    positions = np.arange(batches * batch_size, dtype=np.int32).reshape(batches, batch_size)
    mask = positions < size
    return np.where(mask, positions, np.int32(0)), mask


def gather(split: ArraySplit, indices: Int32[Array, " batch"]) -> Examples:
    """The examples at `indices`, gathered on the device that holds the split."""
    return Examples(*(array.at[indices].get(mode="promise_in_bounds") for array in (split.images, split.labels)))
