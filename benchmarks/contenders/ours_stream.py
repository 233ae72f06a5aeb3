"""This package's streamed images: decoded by threads (work["workers"] is 0) or by processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import jax
import numpy as np

from cnnjax import data, runtime
from cnnjax.data import prefetch, sampling

runtime.configure()
opened = ExitStack()  # for as long as this process lives


def prepare(work: dict) -> Callable[[], None]:
    """A call that takes the next work["images"] images, in batches.

    Threads begin with the call and end with it. Processes, which take seconds to start, continue between two calls
    until their buffers are full: so a call takes as many batches more as they can have decoded by then.
    """
    split = data.from_folder(work["folder"], image_size=work["image_size"], valid=1, test=1, loading="stream").train
    workers, steps = work["workers"], work["images"] // work["batch_size"]
    order = prefetch.Order(sampling.key_data(jax.random.key(0)), len(split), work["batch_size"])
    step = 0

    def batches(rows: prefetch.Order | np.ndarray) -> AbstractContextManager[Iterator[Any]]:
        return prefetch.prefetch_batches(split, rows, workers, 1, lambda chunk: chunk)

    chunks = opened.enter_context(batches(order)) if workers else None

    def call() -> None:
        nonlocal step
        if chunks is not None:
            for _ in range(steps + 4 * workers + 3):
                next(chunks)
            return
        rows = np.stack([order[step + i] for i in range(steps)])
        step += steps
        with batches(rows) as some:
            assert sum(len(chunk.labels[0]) for chunk in some) == work["images"]

    return call
