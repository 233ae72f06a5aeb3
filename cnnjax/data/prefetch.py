"""Streamed batches: images are decoded ahead of use, by threads or worker processes, and put on the devices.

Batch k is a function of k alone: its examples are those of a resident split (`sampling.example_indices`), whoever
decodes them. So a stream has no state to save: it continues from any step, with any number of workers, devices and
hosts.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from cnnjax import runtime
from cnnjax.data import sampling
from cnnjax.data.dataset import ArraySplit, Examples, LazySplit, Split
from cnnjax.data.lazy_images import LazyImages
from cnnjax.errors import UserError

# Bytes. Between what was measured: processes are 1.8 times as fast as threads for images of 64 × 48 pixels, and 1.2
# times for photographs of 500 × 375. The limit itself was not measured.
SMALL_FILE = 2**14
MAX_WORKERS = 8
CHUNK = 2**26  # bytes per chunk: one is computed on, one waits on the devices, one is being made
# Workers send batches through pipes. grain would use /dev/shm, which has 64 MB in a usual container, and a worker that
# fills it is killed by a signal.
_THROUGH_PIPES = 2**62


def is_streamed(split: Split) -> bool:
    """Whether a split's images are decoded or read when they are needed, and not resident in memory."""
    return isinstance(split, LazySplit)


def max_batches(batch_size: int, image_shape: tuple[int, ...], itemsize: int = 1) -> int:
    """How many batches (at least 1) fit into a chunk. `itemsize`: bytes per number, 1 for uint8 and 4 for float32."""
    return max(1, CHUNK // (batch_size * int(np.prod(image_shape)) * itemsize))


@dataclass(frozen=True)
class Order(Sequence):
    """Row n: the indices of the examples that one host decodes for step `first` + n of an endless training stream.

    Attributes:
        key_data: `sampling.key_data` of the order's key.
        size: the number of examples in the split.
        batch: examples per global batch.
        first: the step of row 0.
        host: (index, count): every batch is divided into contiguous parts, one for each host.
    """

    key_data: tuple[int, ...]
    size: int
    batch: int
    first: int = 0
    host: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return 2**60  # grain asks for it; no run gets there

    def __getitem__(self, number: int) -> Int32[np.ndarray, " part"]:
        index, count = self.host
        part = self.batch // count
        return sampling.example_indices(
            self.key_data, (self.first + number) * self.batch + index * part, part, self.size
        )


@contextmanager
def prefetch_batches(
    split: ArraySplit | LazySplit,
    rows: Order | Int32[np.ndarray, "steps part"],
    workers: int,
    length: int,
    place: Callable[[Examples], Any],
) -> Iterator[Iterator[Any]]:
    """Open a stream of `place(chunk)`; a chunk is the `Examples` (length, part, …) of the next `length` rows.

    While the caller uses one chunk, the next is decoded, by `workers` processes or (0) by threads, and placed by a
    thread. The iterator raises UserError when a file cannot be read any more or a worker dies.
    """
    import grain  # takes a second
    from absl import flags

    batches = grain.MapDataset.source(_Batches(split, rows))
    threads = 0 if workers else runtime.cores()
    stream = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
    if workers:
        check_workers(workers)
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain asks absl's flags, which only absl's own programs parse
        sent = grain.experimental.DatasetOptions(min_shm_size=_THROUGH_PIPES)
        stream = grain.experimental.WithOptionsIterDataset(stream, sent)
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, _begin)
    stream = stream.batch(length, drop_remainder=False).map(place)
    iterator = iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=1))
    chunks = _translated(iterator)
    try:
        with warnings.catch_warnings():
            _ignore_metadata_warnings()
            yield chunks
    finally:
        chunks.close()  # so that a caller's variable does not keep the threads alive
        iterator.close()


def choose_workers(split: Split, *, accelerated: bool) -> int:
    """How many processes decode a split's images best; 0 are threads.

    Small files are decoded so fast that most of the time is spent in Python, where one thread runs at a time: there
    processes are 1.8 times as fast as threads on two cores (benchmarks/streaming.py). accelerated: a CPU does not train
    fast enough for that to matter.
    """
    if not accelerated or not isinstance(split, LazySplit) or not isinstance(split.images, LazyImages):
        return 0
    return min(runtime.cores(), MAX_WORKERS) if split.images.mean_file_size() <= SMALL_FILE else 0


def check_workers(workers: int) -> None:
    """Raises UserError where worker processes would run the caller's script again, because it does not guard itself."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)  # none in notebooks, which workers do not run
    if not workers or file is None:
        return
    try:
        guarded = "__main__" in Path(file).read_text("utf8", "replace")
    except OSError:
        guarded = False  # read from a pipe: workers would look for a file of that name
    if not guarded:
        raise UserError(
            f"workers={workers}: each worker process runs {file} again when it starts; put what the script does below "
            'if __name__ == "__main__":, or use workers=0, which decodes in threads'
        )


@dataclass(frozen=True)
class _Batches(Sequence):
    split: ArraySplit | LazySplit
    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Examples:
        indices = self.rows[number]
        return Examples(self.split.images[indices], self.split.labels[indices])


def _translated(chunks: Iterator[Any]) -> Iterator[Any]:
    """The same chunks; grain's error for a worker that is gone becomes a UserError."""
    try:
        yield from chunks
    except RuntimeError as error:
        if "Worker process" not in str(error):
            raise
        raise UserError(
            f"a process that decodes images died ({error}): if memory ran out, lower `workers`; then continue with "
            "resume=True"
        ) from error


def _begin(number: int, count: int) -> None:
    """Prepare a worker process."""
    jax.config.update("jax_platforms", "cpu")  # for the order; accelerators belong to the main process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the main process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _ignore_metadata_warnings()


def _end_with_parent() -> None:
    # A worker whose parent was killed would wait forever.
    parent_process().join()
    os._exit(1)


def _ignore_metadata_warnings() -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of readable files
