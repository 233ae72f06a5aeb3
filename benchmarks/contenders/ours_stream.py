"""This package's streaming feed: decoded by threads (work["workers"] is 0) or by processes."""

from collections.abc import Callable
from contextlib import ExitStack

import jax
import numpy as np

from cnnjax import data
from cnnjax.cli.config import DataConfig
from cnnjax.data import prefetch, sampling

opened = ExitStack()  # for as long as this process lives


def prepare(work: dict) -> Callable[[], None]:
    """A call that takes the next work["batch"] pictures, in batches.

    Threads begin with the call and end with it. Processes, which take seconds to start, go on between two calls until
    their buffers are full: a call takes as many batches more as they can have decoded then.
    """
    source = f"folder:{work['folder']}"
    split = data.load(DataConfig(source, side=work["side"], per_class=0, eval_per_class=1, feed="stream")).train
    workers, steps = work["workers"], work["batch"] // work["size"]
    order = prefetch.Order(sampling.words(jax.random.key(0)), len(split.labels), work["size"])
    step = 0

    def batches(rows: prefetch.Order | np.ndarray) -> prefetch.ahead:
        return prefetch.ahead(split, rows, workers, 1, lambda chunk: chunk)

    chunks = opened.enter_context(batches(order)) if workers else None

    def call() -> None:
        nonlocal step
        if workers:
            for _ in range(steps + 4 * workers + 3):
                next(chunks)
            return
        rows = np.stack([order[step + i] for i in range(steps)])
        step += steps
        with batches(rows) as some:
            assert sum(len(chunk.labels[0]) for chunk in some) == work["batch"]

    return call
