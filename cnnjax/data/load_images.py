"""Samples of encoded images into splits: decoded by threads; broken ones are left out and named; results are cached."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64
from tqdm import tqdm

from cnnjax import distributed, limits
from cnnjax.data.cache import cached
from cnnjax.data.dataset import ArraySplit, Dataset, Examples, LazySplit, fits_in_memory
from cnnjax.data.decode import decode
from cnnjax.data.inventory import Inventory
from cnnjax.data.lazy_images import LazyImages, channel_histogram
from cnnjax.data.splits import ClassSample, Selection
from cnnjax.errors import UserError, unknown
from cnnjax.image_size import to_size
from cnnjax.printable import printable

logger = logging.getLogger(__name__)

_DECODING = 1  # part of the cache key: raise it when `decode` gives other pixels
_NAMED = 5  # broken files named in the log
_SUBMITTED = 2048  # images handed to the threads at a time: each waits in an object of half a kilobyte

Loading = Literal["auto", "resident", "stream"]
"""resident: decoded images are held in memory. stream: they are decoded again for every batch. auto: stream what would
take more than a quarter of the free memory. Results do not depend on it."""


class Source(NamedTuple):
    """Where encoded images are: what folders, tensorflow-datasets and Hugging Face datasets have in common."""

    place: str
    """The data set's name for messages: the folder, tfds:NAME or hub:NAME."""
    key: dict[str, Any]
    """Identifies the encoded images; changes when they do."""
    class_names: tuple[str, ...]
    count: int
    """The number of all images."""
    samples: Callable[[], Mapping[str, Mapping[str, ClassSample]]]
    """The result of `splits.split_dataset`, candidates being strings; called only when something has to be decoded."""
    read: Callable[[str], str | bytes]
    """The encoded image of a candidate: its file, or the file's content. It can be sent to another process."""
    provenance: dict[str, Any]
    """For `Dataset.provenance`."""
    inventory: Inventory | None = None
    """For `Dataset.inventory`."""


class Index(NamedTuple):
    """A streamed split, as the cache keeps it; fields as in `LazyImages`."""

    names: np.ndarray
    labels: Int32[np.ndarray, " images"]
    histogram: Int64[np.ndarray, "3 256"]


def assemble(
    source: Source,
    selection: Selection,
    *,
    image_size: int | tuple[int, int] = 150,
    loading: Loading = "auto",
    cache: bool = True,
) -> Dataset:
    """The data set: training and validation images now, test images when they are asked for.

    Logs one warning that counts and names the broken images. Raises UserError when a class has none that can be read.
    """
    size = to_size(image_size)
    limits.check_image(size)
    streamed = _is_streamed(source, selection, size, loading)

    def split(name: str) -> tuple[ArraySplit | LazySplit, tuple[str, ...]]:
        def compute() -> tuple[Index | Examples, tuple[str, ...]]:
            return (scan if streamed else decode_samples)(source, source.samples()[name], size, name)

        key = {
            **source.key,
            "decoding": _DECODING,
            "split": name,
            "classes": source.class_names,
            "image_size": size,
            **asdict(selection),
        }
        entry, kind = f"{Path(source.place).name}-{name}", Examples
        if streamed:
            entry, kind, key["content"] = f"{entry}-index", Index, "index"
        kept, skipped = cached(entry, key, kind, compute) if cache else compute()
        if not streamed:
            return ArraySplit(kept.images, kept.labels), skipped
        return LazySplit(LazyImages(source.place, source.read, kept.names, kept.histogram, size), kept.labels), skipped

    def load_test() -> ArraySplit | LazySplit:
        test, skipped = split("test")
        _warn(source.place, skipped)
        return test

    train, skipped_train = split("train")
    valid, skipped_valid = split("valid")
    skipped = skipped_train + skipped_valid
    _warn(source.place, skipped)
    provenance = source.provenance | asdict(selection)
    return Dataset(train, valid, load_test, source.class_names, skipped, provenance, source.inventory)


def _is_streamed(source: Source, selection: Selection, size: tuple[int, int], loading: str) -> bool:
    if loading not in ("auto", "resident", "stream"):
        raise unknown("way of loading", loading, ("auto", "resident", "stream"))
    if loading == "resident":
        limits.check_image(size, _asked(source, selection))
    if loading != "auto":
        return loading == "stream"
    return not fits_in_memory(_asked(source, selection) * size[0] * size[1] * 3)


def _asked(source: Source, selection: Selection) -> int:
    """At most how many images the three splits have."""
    asked, wanted = source.count, (selection.per_class, selection.valid, selection.test)
    if all(isinstance(number, int) for number in wanted):
        asked = sum(wanted) * len(source.class_names)
    return min(asked, source.count)


def decode_samples(
    source: Source, samples: Mapping[str, ClassSample], size: tuple[int, int], name: str
) -> tuple[Examples, tuple[str, ...]]:
    """Decodes the samples of one split, class after class. Returns the names of broken images, too.

    A broken image is replaced by the class's next spare one; without spares the split has one image fewer.
    """
    images = np.zeros((sum(sample.wanted for sample in samples.values()), *size, 3), np.uint8)
    chosen, labels, broken = _decode_all(source, samples, size, name, images.__setitem__)
    good = np.array([candidate is not None for candidate in chosen])
    return (Examples(images, labels) if good.all() else Examples(images[good], labels[good])), broken


def scan(
    source: Source, samples: Mapping[str, ClassSample], size: tuple[int, int], name: str
) -> tuple[Index, tuple[str, ...]]:
    """`decode_samples` for a streamed split: decodes the same images, and keeps their names and the histograms of their
    channels.

    So the images are those of the resident split, whichever files are broken, and normalizers can be fitted.
    """
    histogram = np.zeros((3, 256), np.int64)
    lock = threading.Lock()

    def count(slot: int, image: np.ndarray) -> None:
        found = channel_histogram(image)
        with lock:
            np.add(histogram, found, out=histogram)

    chosen, labels, broken = _decode_all(source, samples, size, name, count)
    good = np.array([candidate is not None for candidate in chosen])
    names = np.array([os.fsencode(candidate) for candidate in chosen if candidate is not None])
    return Index(names, labels[good], histogram), broken


def _decode_all(
    source: Source,
    samples: Mapping[str, ClassSample],
    size: tuple[int, int],
    name: str,
    use: Callable[[int, np.ndarray], None],
) -> tuple[list[str | None], np.ndarray, tuple[str, ...]]:
    """Calls `use(slot, image)` in threads. Returns each slot's candidate (None: there is none) and label, and the names
    of the broken images.
    """
    labels = np.repeat(np.arange(len(samples), dtype=np.int32), [sample.wanted for sample in samples.values()])
    spares = [iter(sample.candidates[sample.wanted :]) for sample in samples.values()]
    chosen = [candidate for sample in samples.values() for candidate in sample.candidates[: sample.wanted]]
    pending = range(len(chosen))
    broken: list[tuple[int, str, str]] = []

    def attempt(slot: int) -> str:
        try:
            image = decode(source.read(chosen[slot]), size)
        except Exception as error:  # damaged files make Pillow raise exceptions of many kinds
            return str(error) or type(error).__name__
        use(slot, image)
        return ""

    shown = {"desc": f"decoding {name} images of {source.place}", "unit": " images", "delay": 1.0}
    bar = tqdm(total=len(labels), disable=not distributed.is_primary(), **shown)
    pool = ThreadPoolExecutor()
    try:
        with bar, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # on odd metadata of readable files
            while pending:
                failed = []
                for first in range(0, len(pending), _SUBMITTED):
                    some = pending[first : first + _SUBMITTED]
                    for slot, error in zip(some, pool.map(attempt, some), strict=True):
                        if error:
                            failed.append(slot)
                            broken.append((int(labels[slot]), chosen[slot], error))
                        else:
                            bar.update()
                for slot in failed:
                    chosen[slot] = next(spares[labels[slot]], None)
                pending = [slot for slot in failed if chosen[slot] is not None]
    finally:
        pool.shutdown(cancel_futures=True)

    for label, class_name in enumerate(samples):
        if all(chosen[slot] is None for slot in np.flatnonzero(labels == label)):
            errors = [(file, error) for where, file, error in broken if where == label]
            raise UserError(
                f"{source.place}: no image of class {class_name!r} can be read, {len(errors)} tried, for example "
                f"{errors[0][0]} ({errors[0][1]}): replace the broken files"
            )
    return chosen, labels, tuple(file for _, file, _ in broken)


def brief(error: Exception) -> str:
    """An error of another library in at most 300 characters, on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:297]}…"


def _warn(place: str, skipped: tuple[str, ...]) -> None:
    if skipped and distributed.is_primary():
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        files = f"{len(skipped)} {'file' if len(skipped) == 1 else 'files'}"
        logger.warning(
            "%s: left out %s that cannot be read: %s%s", place, files, printable(", ".join(skipped[:_NAMED])), more
        )
