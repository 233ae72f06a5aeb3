"""Checksums: of named arrays, of a file, and the manifest that says what a checkpoint was when it was written."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cnnjax.files import atomic_write, check_regular

MANIFEST = "manifest.json"


def digest(arrays: Mapping[str, Array | np.ndarray | jax.ShapeDtypeStruct]) -> str:
    """sha256, in hex, over the arrays' names, types, shapes and bytes, in the order of their names."""
    found = ((name, to_numpy(arrays[name])) for name in sorted(arrays))  # one after another leaves the device
    return digest_of_blocks((name, array.dtype, array.shape, (array,)) for name, array in found)


def digest_of_blocks(entries: Iterable[tuple[str, np.dtype, tuple[int, ...], Iterable[np.ndarray]]]) -> str:
    """`digest` of arrays that are given as their name, type, shape and blocks of rows, in the order of their names."""
    total = hashlib.sha256()
    for name, dtype, shape, blocks in entries:
        total.update(f"{name}:{dtype.str}:{shape};".encode())
        for block in blocks:
            total.update(np.asarray(block, order="C").reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def to_numpy(array: Array | np.ndarray | jax.ShapeDtypeStruct) -> np.ndarray:
    """The array on the host; of typed random keys, their data. Raises TypeError for an abstract array."""
    if isinstance(array, jax.ShapeDtypeStruct):
        raise TypeError("an abstract array has no values")
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def checksum(array: Any) -> int:
    """CRC32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def leaves(tree: Any) -> dict[str, Any]:
    """Every array of a tree by its path, type and shape."""
    leaves = jax.tree.leaves_with_path(tree)
    return {f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}": leaf for path, leaf in leaves}


def seal(folder: Path, host: Any, history: list[dict[str, Any]]) -> None:
    """Write the manifest of a checkpoint that is completely on the disk: its arrays, its files, its epochs' metrics."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest = {
        "history": history,
        "arrays": {leaf: checksum(array) for leaf, array in leaves(host).items()},
        "files": {str(path.relative_to(folder)): file_digest(path) for path in files},
    }
    text = json.dumps(manifest, indent=1)

    def write(temporary: Path) -> None:
        with temporary.open("w") as file:
            file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
            file.flush()
            os.fsync(file.fileno())

    atomic_write(folder / MANIFEST, write)


def verified(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest. Raises ValueError or OSError unless every byte of every file is as it was written."""
    seal, _, text = check_regular(path / MANIFEST).read_bytes().partition(b"\n")
    if seal != hashlib.sha256(text).hexdigest().encode():
        raise ValueError(f"{MANIFEST} has changed")
    manifest = json.loads(text)
    if not _is_proper(manifest):
        raise ValueError(f"{MANIFEST} is not one of a checkpoint")
    for name, digest in manifest["files"].items():
        if ".." in Path(name).parts or Path(name).is_absolute() or not (path / name).is_file():
            raise ValueError(f"{name!r} is not there")
        if file_digest(path / name) != digest:
            raise ValueError(f"{name} has changed")
    return manifest


def _is_proper(manifest: Any) -> bool:
    """Whether a manifest has what `seal` writes; its seal only says that it has not changed since."""
    if not isinstance(manifest, dict) or not isinstance(manifest.get("history"), list):
        return False
    rows = all(
        isinstance(row, dict)
        and isinstance(row.get("valid_loss"), int | float)
        and isinstance(row.get("valid_accuracy", 0.0), int | float)  # a network without classes has none
        for row in manifest["history"]
    )
    return rows and all(isinstance(manifest.get(part), dict) and manifest[part] for part in ("arrays", "files"))


def file_digest(path: Path) -> str:
    """sha256, in hex, of a file's bytes, which are flushed to the disk first."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # costs nothing if they are there already
        return hashlib.file_digest(file, "sha256").hexdigest()
