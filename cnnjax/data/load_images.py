"""Draws into splits: pictures are decoded by threads, broken ones are left out and named, results are cached."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64
from tqdm import tqdm

from cnnjax import distributed, runtime
from cnnjax.cli.config import DataConfig
from cnnjax.data.cache import cached_noting
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.decode import decode
from cnnjax.data.lazy_images import Pictures, count_colours
from cnnjax.data.splits import Draw
from cnnjax.errors import UserError

logger = logging.getLogger(__name__)

_DECODING = 1  # part of the cache key: raise it when `decode` gives other pixels
_NAMED = 5  # broken files named in the log
_SUBMITTED = 2048  # pictures handed to the threads at a time: each waits in an object of half a kilobyte
_SHARE = 0.25  # of the free memory, is what resident pictures may take


class Source(NamedTuple):
    """Where encoded pictures lie: what folders and tensorflow-datasets have in common."""

    place: str
    """For messages: the folder, or tfds:NAME."""
    key: dict[str, Any]
    """Identifies the encoded pictures; changes when they do."""
    class_names: tuple[str, ...]
    count: int
    """Of all pictures there are."""
    draws: Callable[[], Mapping[str, Mapping[str, Draw]]]
    """What `sample.divide` drew, candidates being strings; called only when something has to be decoded."""
    read: Callable[[str], str | bytes]
    """The encoded picture of a candidate: its file, or the file's content. Can be sent to another process."""
    describe: Callable[[str], str]
    """A candidate's name for people."""


class Index(NamedTuple):
    """A split that is streamed, as the cache keeps it; fields as in `Pictures`."""

    names: np.ndarray
    labels: Int32[np.ndarray, " pictures"]
    colours: Int64[np.ndarray, "3 256"]


def assemble(source: Source, config: DataConfig) -> Dataset:
    """The data set: training and validation pictures now, test pictures when `load_test` is called.

    Logs one warning that counts and names the broken pictures. Raises UserError when a class has none that can be read.
    """
    streamed = _is_streamed(source, config)

    def split(name: str) -> tuple[Split, tuple[str, ...]]:
        def compute() -> tuple[Split | Index, tuple[str, ...]]:
            return (survey if streamed else gather)(source, source.draws()[name], config.side, name)

        key = {
            **source.key,
            "decoding": _DECODING,
            "split": name,
            "classes": source.class_names,
            "side": config.side,
            "per_class": config.per_class,
            "eval_per_class": config.eval_per_class,
            "seed": config.seed,
        }
        entry = f"{Path(source.place).name}-{name}"
        if not streamed:
            return cached_noting(entry, key, compute) if config.cache else compute()
        key["content"] = "index"
        index, skipped = cached_noting(f"{entry}-index", key, compute, Index) if config.cache else compute()
        pictures = Pictures(source.place, source.read, index.names, index.colours, config.side)
        return Split(pictures, index.labels), skipped

    def load_test() -> Split:
        test, skipped = split("test")
        _warn(source.place, skipped)
        return test

    train, skipped_train = split("train")
    valid, skipped_valid = split("valid")
    skipped = skipped_train + skipped_valid
    _warn(source.place, skipped)
    return Dataset(train, valid, load_test, source.class_names, skipped)


def _is_streamed(source: Source, config: DataConfig) -> bool:
    if config.feed != "auto":
        return config.feed == "stream"
    asked = (config.per_class or source.count) + config.eval_per_class
    pictures = min(asked * len(source.class_names), source.count)
    return pictures * config.side**2 * 3 > runtime.free_memory() * _SHARE


def gather(source: Source, draws: Mapping[str, Draw], side: int, name: str) -> tuple[Split, tuple[str, ...]]:
    """Decodes what was drawn for one split, class after class; and the names of broken pictures.

    A broken picture is replaced by the class's next spare one; without spares the split has one picture fewer.
    """
    images = np.zeros((sum(draw.wanted for draw in draws.values()), side, side, 3), np.uint8)
    chosen, labels, broken = _decode_all(source, draws, side, name, images.__setitem__)
    good = np.array([candidate is not None for candidate in chosen])
    split = Split(images, labels) if good.all() else Split(images[good], labels[good])
    return split, broken


def survey(source: Source, draws: Mapping[str, Draw], side: int, name: str) -> tuple[Index, tuple[str, ...]]:
    """`gather` for a split that is streamed: decodes the same pictures, and keeps their names and how often each value
    of each colour occurs.

    Only so are the pictures those of the resident split, wherever files are broken; and cleaning needs the colours.
    """
    colours = np.zeros((3, 256), np.int64)
    lock = threading.Lock()

    def count(slot: int, picture: np.ndarray) -> None:
        found = count_colours(picture)
        with lock:
            np.add(colours, found, out=colours)

    chosen, labels, broken = _decode_all(source, draws, side, name, count)
    good = np.array([candidate is not None for candidate in chosen])
    names = np.array([os.fsencode(candidate) for candidate in chosen if candidate is not None])
    return Index(names, labels[good], colours), broken


def _decode_all(
    source: Source, draws: Mapping[str, Draw], side: int, name: str, use: Callable[[int, np.ndarray], None]
) -> tuple[list[str | None], np.ndarray, tuple[str, ...]]:
    """Calls `use(slot, picture)` in threads; gives each slot's candidate (None: there is none) and label, and the names
    of the broken pictures.
    """
    labels = np.repeat(np.arange(len(draws), dtype=np.int32), [draw.wanted for draw in draws.values()])
    spares = [iter(draw.candidates[draw.wanted :]) for draw in draws.values()]
    chosen = [candidate for draw in draws.values() for candidate in draw.candidates[: draw.wanted]]
    pending = range(len(chosen))
    broken: list[tuple[int, str, str]] = []

    def attempt(slot: int) -> str:
        try:
            picture = decode(source.read(chosen[slot]), side)
        except Exception as error:  # damaged files make Pillow raise exceptions of a dozen kinds
            return str(error) or type(error).__name__
        use(slot, picture)
        return ""

    shown = {"desc": f"decoding {name} pictures of {source.place}", "unit": " pictures", "delay": 1.0}
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
                            broken.append((int(labels[slot]), source.describe(chosen[slot]), error))
                        else:
                            bar.update()
                for slot in failed:
                    chosen[slot] = next(spares[labels[slot]], None)
                pending = [slot for slot in failed if chosen[slot] is not None]
    finally:
        pool.shutdown(cancel_futures=True)

    for label, class_name in enumerate(draws):
        if all(chosen[slot] is None for slot in np.flatnonzero(labels == label)):
            errors = [(file, error) for where, file, error in broken if where == label]
            raise UserError(
                f"{source.place}: no picture of class {class_name!r} can be read, {len(errors)} tried, for example "
                f"{errors[0][0]} ({errors[0][1]}): replace the broken files"
            )
    return chosen, labels, tuple(file for _, file, _ in broken)


def _warn(place: str, skipped: tuple[str, ...]) -> None:
    if skipped and distributed.is_primary():
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        files = f"{len(skipped)} {'file' if len(skipped) == 1 else 'files'}"
        logger.warning("%s: left out %s that cannot be read: %s%s", place, files, ", ".join(skipped[:_NAMED]), more)
