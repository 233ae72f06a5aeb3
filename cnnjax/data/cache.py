"""Splits kept in the user's cache folder, so that images are rendered or decoded once.

An entry is a folder `data/NAME-HASH` with `images.npy`, `labels.npy` and `entry.json`, which describes it and holds the
checksums; the index of a streamed split is kept the same way. Entries are written atomically; a damaged one is removed
and made again.
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

from cnnjax import checksums, runtime
from cnnjax.files import check_regular, read_text

logger = logging.getLogger(__name__)

Arrays = TypeVar("Arrays")

_FORMAT = 2  # part of every key: raise it when an entry's layout changes


def cached(
    name: str, key: dict[str, Any], kind: type[Arrays], compute: Callable[[], tuple[Arrays, tuple[str, ...]]]
) -> tuple[Arrays, tuple[str, ...]]:
    """What `key` (JSON-able) describes: read from the cache, or computed and kept there.

    `name` is for people who look into the folder. `kind` is the NamedTuple of NumPy arrays that `compute` returns,
    together with the names of broken images that it left out; each array becomes a file. A cache that cannot be
    written costs a warning, nothing else. Arrays that come from the cache are read-only memory maps.
    """
    text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    safe = re.sub(r"[^\w.-]+", "_", name)[:80]
    try:
        folder = runtime.cache_dir()
    except OSError as error:
        logger.warning("there is no cache folder (%s): %s is not kept", error, name)
        return compute()
    entry = folder / "data" / f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    kept = _read(entry, kind)
    if kept is None:
        kept = compute()
        _write(entry, name, key, *kept)
    return kept


def _read(entry: Path, kind: type[Arrays]) -> tuple[Arrays, tuple[str, ...]] | None:
    """The entry's content; None if it does not exist or is damaged."""
    if not entry.is_dir():
        return None
    try:
        about = json.loads(read_text(entry / "entry.json"))
        paths = {name: check_regular(entry / f"{name}.npy") for name in kind._fields}
        arrays = {name: np.load(path, mmap_mode="r").view(np.ndarray) for name, path in paths.items()}
        skipped = tuple(about["skipped"])
        whole = about["skipped_crc32"] == _checksum(skipped)
        if whole and all(_describe(array) == about[name] for name, array in arrays.items()):
            return kind(**arrays), skipped
        logger.warning("the cache entry %s is damaged: making it again", entry)
    except Exception as error:  # of many kinds: a flipped bit in a header makes NumPy raise a TokenError
        logger.warning("the cache entry %s cannot be read (%s): making it again", entry, error)
    shutil.rmtree(entry, ignore_errors=True)
    return None


def _write(entry: Path, name: str, key: dict[str, Any], kept: Arrays, skipped: tuple[str, ...]) -> None:
    temporary = None
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
        about = {"name": name, "key": key, "skipped": skipped, "skipped_crc32": _checksum(skipped)}
        for field, array in kept._asdict().items():
            np.save(temporary / f"{field}.npy", array)
            about[field] = _describe(array)
        (temporary / "entry.json").write_text(json.dumps(about, indent=1))
        os.rename(temporary, entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process has just written the same entry
            logger.warning("cannot keep %s in the cache (%s): it will be made again next time", name, error)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _checksum(names: tuple[str, ...]) -> int:
    return zlib.crc32(json.dumps(names).encode())


def _describe(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": checksums.checksum(array)}
