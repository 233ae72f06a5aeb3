"""Splits kept as uint8 in the user's cache folder, so that pictures are rendered or decoded once.

An entry is a folder `data/NAME-HASH` with `images.npy`, `labels.npy` and `entry.json`, which says what it is and holds
the checksums; the index of a split that is streamed is kept the same way. Entries appear whole or not at all; a damaged
one is thrown away and made anew.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cnnjax import runtime
from cnnjax.data.dataset import Split

logger = logging.getLogger(__name__)

Arrays = TypeVar("Arrays")

_FORMAT = 1  # part of every key: raise it when an entry's layout changes


def cached(name: str, key: dict[str, Any], compute: Callable[[], Split]) -> Split:
    """The split that `key` (JSON-able) describes: read from the cache, or computed and kept there.

    `name` is for people who look into the folder. A cache that cannot be written costs a warning, nothing else.
    The images are a read-only memory map when they come from the cache.
    """
    return cached_noting(name, key, lambda: (compute(), ()))[0]


def cached_noting(
    name: str, key: dict[str, Any], compute: Callable[[], tuple[Arrays, tuple[str, ...]]], kind: type[Arrays] = Split
) -> tuple[Arrays, tuple[str, ...]]:
    """`cached`, for sources that also tell the names of broken pictures that they left out.

    `kind` is the NamedTuple of NumPy arrays that `compute` gives and that is kept, one file an array.
    """
    text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    safe = re.sub(r"[^\w.-]+", "_", name)[:80]
    entry = runtime.cache_dir() / "data" / f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    kept = _read(entry, kind)
    if kept is None:
        kept = compute()
        _write(entry, name, key, *kept)
    return kept


def _read(entry: Path, kind: type[Arrays]) -> tuple[Arrays, tuple[str, ...]] | None:
    """The entry's content; None when it is not there or damaged."""
    if not entry.is_dir():
        return None
    try:
        about = json.loads((entry / "entry.json").read_text())
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in kind._fields}
        if all(_describe(array) == about[name] for name, array in arrays.items()):
            return kind(**arrays), tuple(about["skipped"])
        logger.warning("the cache entry %s is damaged: making it anew", entry)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        logger.warning("the cache entry %s cannot be read (%s): making it anew", entry, error)
    shutil.rmtree(entry, ignore_errors=True)
    return None


def _write(entry: Path, name: str, key: dict[str, Any], kept: Arrays, skipped: tuple[str, ...]) -> None:
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
        about = {"name": name, "key": key, "skipped": skipped}
        for field, array in kept._asdict().items():
            np.save(temporary / f"{field}.npy", array)
            about[field] = _describe(array)
        (temporary / "entry.json").write_text(json.dumps(about, indent=1))
        os.rename(temporary, entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process has just written the same
            logger.warning("cannot keep %s in the cache (%s): it will be made again next time", name, error)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _describe(array: np.ndarray) -> dict[str, Any]:
    checksum = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": checksum}
