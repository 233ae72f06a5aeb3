"""The order of examples, and the resident feed: a split lives on the devices as uint8, only the order is fed.

The order is a function of (key, position in an endless stream): pass p goes through the split in the order of
permutation p. So an epoch may have any number of steps, and a batch may reach over the end of a pass.
"""

from functools import lru_cache, partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Key, UInt8

from cnnjax.data.dataset import Split
from cnnjax.errors import UserError


def steps_per_epoch(configured: int, batch_size: int, size: int) -> int:
    """Steps that are called an epoch: as configured, or (0) the whole batches in one pass over `size` pictures.

    Raises UserError when a batch is larger than the data.
    """
    if batch_size > size:
        raise UserError(
            f"--train.batch-size {batch_size} is larger than the {size} training pictures: use {size} or less"
        )
    return configured or size // batch_size


@partial(jax.jit, static_argnums=2)
def _permutation(key: Key[Array, ""], number: Int[Array, ""], size: int) -> Int32[Array, " size"]:
    return jax.random.permutation(jax.random.fold_in(key, number), size)


def words(key: Key[Array, ""]) -> tuple[int, ...]:
    """A key as plain numbers, which any process understands."""
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@lru_cache(maxsize=2)
def _pass(words: tuple[int, ...], number: int, size: int) -> np.ndarray:
    # On the host, where it need not queue behind a training program. Without a CPU backend JAX's default must do.
    hosts = jax.local_devices(backend="cpu") if "cpu" in (jax.config.jax_platforms or "cpu") else [None]
    with jax.default_device(hosts[0]):
        key = jax.random.wrap_key_data(np.array(words, np.uint32))
        return np.asarray(_permutation(key, number, size))


def order(key: Key[Array, ""] | tuple[int, ...], start: int, count: int, size: int) -> Int32[np.ndarray, " count"]:
    """Indices of the stream's examples `start` to `start + count`: example n is permutation_{n // size}[n % size].

    The key may be given as its `words`.
    """
    if count == 0:
        return np.zeros(0, np.int32)
    key = key if isinstance(key, tuple) else words(key)
    first, last = start // size, (start + count - 1) // size
    passes = [_pass(key, number, size) for number in range(first, last + 1)]
    return np.concatenate(passes)[start - first * size :][:count]


def padded(size: int, batch_size: int) -> tuple[Int32[np.ndarray, "batches batch"], Bool[np.ndarray, "batches batch"]]:
    """Every index of a split once, in order, in whole batches, and a mask that is False for what fills up the last."""
    batches = -(-size // batch_size)
    places = np.arange(batches * batch_size, dtype=np.int32).reshape(batches, batch_size)
    mask = places < size
    return np.where(mask, places, np.int32(0)), mask


def take(
    split: Split, indices: Int32[Array, " batch"]
) -> tuple[UInt8[Array, "batch side side 3"], Int32[Array, " batch"]]:
    """The examples at `indices`, gathered on the device that holds the split."""
    return tuple(array.at[indices].get(mode="promise_in_bounds") for array in split)
