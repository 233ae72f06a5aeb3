"""This package from JPEG files to augmented batches on the device: decoding, from its cache, or resident."""

from collections.abc import Callable

import jax
import numpy as np

from cnnjax import data, runtime
from cnnjax.data import sampling
from cnnjax.train.step import example_keys, to_float01

runtime.configure()


def prepare(work: dict) -> Callable[[], None]:
    """A call that makes an epoch's batches.

    work["stage"]: "decode" reads the files in work["folder"] every time, as a first epoch does; "cached" reads the
    decoded images from the cache, as a second run's first epoch does; "resident" has them on the device, as every later
    epoch does.
    """
    stage, batch_size, steps = work["stage"], work["batch_size"], work["images"] // work["batch_size"]
    key, order_key = jax.random.split(jax.random.key(0))
    positions, augment = np.arange(batch_size, dtype=np.int32), data.Augment()

    @jax.jit
    def make(split: data.ArraySplit, indices: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, labels = sampling.gather(split, indices)
        return augment(example_keys(key, step, positions), to_float01(images)), labels

    def load() -> data.ArraySplit:
        size, cache = work["image_size"], stage == "cached"
        loaded = data.from_folder(work["folder"], image_size=size, valid=1, test=1, loading="resident", cache=cache)
        return jax.device_put(loaded.train)

    resident = load() if stage == "resident" else None

    def call() -> None:
        split = load() if resident is None else resident
        order = np.asarray(sampling.example_indices(order_key, 0, steps * batch_size, len(split)))
        for step, indices in enumerate(order.reshape(steps, batch_size)):
            jax.block_until_ready(make(split, indices, np.int32(step)))

    return call
