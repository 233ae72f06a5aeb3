"""This package's streaming feed: decoded by threads (work["workers"] is 0) or by processes."""

import atexit
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import active_children

import jax
import numpy as np

from cnnjax import data
from cnnjax.config import DataConfig
from cnnjax.data import feed, stream

opened = ExitStack()


def prepare(work: dict) -> Callable[[], None]:
    """A call that takes the next work["batch"] pictures, in batches.

    Threads begin with the call and end with it. Processes, which take seconds to start, stand still between two calls:
    they would work ahead in the others' turns.
    """
    source = f"folder:{work['folder']}"
    split = data.load(DataConfig(source, side=work["side"], per_class=0, eval_per_class=1, feed="stream")).train
    workers, steps = work["workers"], work["batch"] // work["size"]
    order = stream.Order(feed.words(jax.random.key(0)), len(split.labels), work["size"])
    step = 0

    def batches(rows: stream.Order | np.ndarray) -> stream.ahead:
        return stream.ahead(split, rows, workers, 1, lambda chunk: chunk)

    def tell(what: signal.Signals) -> None:
        for process in active_children():
            os.kill(process.pid, what)

    chunks = opened.enter_context(batches(order)) if workers else None
    atexit.register(opened.close)
    atexit.register(tell, signal.SIGCONT)  # first: what stands still cannot end

    def call() -> None:
        nonlocal step
        if workers:
            tell(signal.SIGCONT)
            for _ in range(steps):
                next(chunks)
            tell(signal.SIGSTOP)
            return
        rows = np.stack([order[step + i] for i in range(steps)])
        step += steps
        with batches(rows) as some:
            assert sum(len(chunk.labels[0]) for chunk in some) == work["batch"]

    return call
