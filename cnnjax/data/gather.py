"""Draws into splits: pictures are decoded by threads, broken ones are left out and named, results are cached."""

import logging
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cnnjax.config import DataConfig
from cnnjax.data.cache import cached_noting
from cnnjax.data.decode import decode
from cnnjax.data.sample import Draw
from cnnjax.data.split import Dataset, Split
from cnnjax.errors import UserError

logger = logging.getLogger(__name__)

_DECODING = 1  # part of the cache key: raise it when `decode` gives other pixels
_NAMED = 5  # broken files named in the log


class Source(NamedTuple):
    """Where encoded pictures lie: what folders and tensorflow-datasets have in common."""

    place: str
    """For messages: the folder, or tfds:NAME."""
    key: dict[str, Any]
    """Identifies the encoded pictures; changes when they do."""
    class_names: tuple[str, ...]
    draws: Callable[[], Mapping[str, Mapping[str, Draw]]]
    """What `sample.divide` drew; called only when something has to be decoded."""
    read: Callable[[Any], Path | bytes]
    """The encoded picture of a candidate: its file, or the file's content."""
    describe: Callable[[Any], str]
    """A candidate's name."""


def assemble(source: Source, config: DataConfig) -> Dataset:
    """The data set: training and validation pictures now, test pictures when `load_test` is called.

    Logs one warning that counts and names the broken pictures. Raises UserError when a class has none that can be read.
    """

    def split(name: str) -> tuple[Split, tuple[str, ...]]:
        def compute() -> tuple[Split, tuple[str, ...]]:
            return gather(source, source.draws()[name], config.side, name)

        if not config.cache:
            return compute()
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
        return cached_noting(f"{Path(source.place).name}-{name}", key, compute)

    def load_test() -> Split:
        test, skipped = split("test")
        _warn(source.place, skipped)
        return test

    train, skipped_train = split("train")
    valid, skipped_valid = split("valid")
    skipped = skipped_train + skipped_valid
    _warn(source.place, skipped)
    return Dataset(train, valid, load_test, source.class_names, skipped)


def gather(source: Source, draws: Mapping[str, Draw], side: int, name: str) -> tuple[Split, tuple[str, ...]]:
    """Decodes what was drawn for one split, class after class; and the names of broken pictures.

    A broken picture is replaced by the class's next spare one; without spares the split has one picture fewer.
    """
    labels = np.repeat(np.arange(len(draws), dtype=np.int32), [draw.wanted for draw in draws.values()])
    images = np.zeros((len(labels), side, side, 3), np.uint8)
    spares = [iter(draw.candidates[draw.wanted :]) for draw in draws.values()]
    chosen = [candidate for draw in draws.values() for candidate in draw.candidates[: draw.wanted]]
    pending = list(enumerate(chosen))
    good = np.zeros(len(labels), bool)
    broken: list[tuple[int, str, str]] = []

    def attempt(task: tuple[int, Any]) -> str:
        slot, candidate = task
        try:
            images[slot] = decode(source.read(candidate), side)
        except Exception as error:  # damaged files make Pillow raise exceptions of a dozen kinds
            return str(error) or type(error).__name__
        good[slot] = True
        return ""

    bar = tqdm(total=len(labels), desc=f"decoding {name} pictures of {source.place}", unit=" pictures", delay=1.0)
    pool = ThreadPoolExecutor()
    try:
        with bar, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # on odd metadata of readable files
            while pending:
                failed = []
                for (slot, candidate), error in zip(pending, pool.map(attempt, pending), strict=True):
                    if error:
                        failed.append(slot)
                        broken.append((int(labels[slot]), source.describe(candidate), error))
                    else:
                        bar.update()
                pending = [(slot, spare) for slot in failed for spare in [next(spares[labels[slot]], None)] if spare]
    finally:
        pool.shutdown(cancel_futures=True)

    for label, class_name in enumerate(draws):
        if not good[labels == label].any():
            errors = [(file, error) for where, file, error in broken if where == label]
            raise UserError(
                f"{source.place}: no picture of class {class_name!r} can be read, {len(errors)} tried, for example "
                f"{errors[0][0]} ({errors[0][1]}): replace the broken files"
            )
    split = Split(images, labels) if good.all() else Split(images[good], labels[good])
    return split, tuple(file for _, file, _ in broken)


def _warn(place: str, skipped: tuple[str, ...]) -> None:
    if skipped:
        more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        files = f"{len(skipped)} {'file' if len(skipped) == 1 else 'files'}"
        logger.warning("%s: left out %s that cannot be read: %s%s", place, files, ", ".join(skipped[:_NAMED]), more)
