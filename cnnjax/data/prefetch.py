"""The streaming feed: pictures are decoded ahead of use, by threads or worker processes, and put on the devices.

Batch number k is a function of k alone: its examples are those of the resident feed (`sampling.order`), whoever decodes
them. So a stream has no state to keep: it goes on from any step, with any number of workers, devices and hosts.
"""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from cnnjax import runtime
from cnnjax.data import sampling
from cnnjax.data.dataset import Split
from cnnjax.data.lazy_images import Pictures
from cnnjax.errors import UserError

CHUNK = 2**26  # bytes a chunk: one is computed on, one waits on the devices, one is on its way


def is_streamed(split: Split) -> bool:
    """Whether a split's pictures are still to be decoded."""
    return isinstance(split.images, Pictures)


def longest(batch: int, image_shape: tuple[int, ...]) -> int:
    """How many batches (at least 1) fit into a chunk."""
    return max(1, CHUNK // (batch * int(np.prod(image_shape))))


@dataclass(frozen=True)
class Order(Sequence):
    """Row n: the indices of what one host decodes for step `first` + n of an endless training stream.

    `words` are `sampling.words` of the order's key, `host` is (index, count): every batch is cut into contiguous parts.
    """

    words: tuple[int, ...]
    size: int
    batch: int
    first: int = 0
    host: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return 2**60  # grain asks; no run gets there

    def __getitem__(self, number: int) -> Int32[np.ndarray, " part"]:
        index, count = self.host
        part = self.batch // count
        return sampling.order(self.words, (self.first + number) * self.batch + index * part, part, self.size)


@contextmanager
def ahead(
    split: Split,
    rows: Order | Int32[np.ndarray, "steps part"],
    workers: int,
    length: int,
    place: Callable[[Split], Any],
) -> Iterator[Iterator[Any]]:
    """Open a stream of `place(chunk)`, a chunk being the `Split` (length, part, …) of the next `length` rows' batches.

    While the caller uses one chunk, the next is decoded, by so many worker processes or (0) by threads, and placed by a
    thread. The iterator raises UserError when a file cannot be read any more or a worker dies.
    """
    import grain  # takes a second
    from absl import flags

    batches = grain.MapDataset.source(_Batches(split, rows))
    threads = 0 if workers else runtime.cores()
    stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain asks absl's flags, which only absl's own programs parse
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, _begin)
    stream = stream.batch(length, drop_remainder=False).map(place)
    iterator = iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=1))
    try:
        with warnings.catch_warnings():
            _ignore_odd_metadata()
            yield _telling(iterator)
    finally:
        iterator.close()


@dataclass(frozen=True)
class _Batches(Sequence):
    split: Split
    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Split:
        indices = self.rows[number]
        return Split(self.split.images[indices], self.split.labels[indices])


def _telling(chunks: Iterator[Any]) -> Iterator[Any]:
    """The same, with grain's word for a worker that is gone put into ours."""
    try:
        yield from chunks
    except RuntimeError as error:
        if "Worker process" not in str(error):
            raise
        raise UserError(
            f"a process that decodes pictures died ({error}): if memory ran out, lower --data.workers; then go on with "
            "--resume"
        ) from error


def _begin(number: int, count: int) -> None:
    """The first thing in a worker."""
    jax.config.update("jax_platforms", "cpu")  # for the order; accelerators are the main process's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the main process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _ignore_odd_metadata()


def _end_with_parent() -> None:
    # A worker of a parent that was killed would wait for ever.
    parent_process().join()
    os._exit(1)


def _ignore_odd_metadata() -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of readable files
