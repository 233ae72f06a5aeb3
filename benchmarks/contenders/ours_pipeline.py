"""This package from JPEG files to augmented batches on the device: decoding, from its cache, or resident."""

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from cnnjax import data
from cnnjax.cli import config
from cnnjax.data import sampling
from cnnjax.data.augment import augment
from cnnjax.data.dataset import Split
from cnnjax.train.step import example_keys, unit


def prepare(work: dict) -> Callable[[], None]:
    """A call that makes an epoch's batches. work["stage"] says from what: "decode" reads the files in work["folder"]
    every time, as a first epoch does; "cached" reads the decoded pictures from the cache, as a second run's first epoch
    does; "resident" has them on the device, as every later epoch does.
    """
    base, stage = config.preset("cnn-augmented"), work["stage"]
    source = f"folder:{work['folder']}"
    pictures = replace(
        base.data, source=source, side=work["side"], per_class=0, eval_per_class=1, cache=stage == "cached"
    )
    batch, steps = work["size"], work["batch"] // work["size"]
    key, order_key = jax.random.split(jax.random.key(0))
    positions = np.arange(batch, dtype=np.int32)

    @jax.jit
    def make(split: Split, indices: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, labels = sampling.take(split, indices)
        return augment(example_keys(key, step, positions), unit(images), base.augment), labels

    def load() -> Split:
        return jax.device_put(data.load(pictures).train)

    resident = load() if stage == "resident" else None

    def call() -> None:
        split = load() if resident is None else resident
        order = sampling.order(order_key, 0, steps * batch, len(split.labels)).reshape(steps, batch)
        for step, indices in enumerate(order):
            jax.block_until_ready(make(split, indices, np.int32(step)))

    return call
