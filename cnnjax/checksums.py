"""What a checkpoint's files and arrays were when it was written, and whether they still are."""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

MANIFEST = "manifest.json"


def seal(folder: Path, host: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """Write the manifest of a checkpoint that is all on the disk: its arrays, its files, the rows of its epochs."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest = {
        "history": history,
        "arrays": {leaf: checksum(array) for leaf, array in leaves(host).items()},
        "files": {str(path.relative_to(folder)): _digest(path) for path in files},
    }
    text = json.dumps(manifest, indent=1)
    with (folder / MANIFEST).open("w") as file:
        file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        file.flush()
        os.fsync(file.fileno())


def verified(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest. Raises ValueError or OSError unless every byte of every file is as it was written."""
    seal, _, text = (path / MANIFEST).read_bytes().partition(b"\n")
    if seal != hashlib.sha256(text).hexdigest().encode():
        raise ValueError(f"{MANIFEST} has changed")
    manifest = json.loads(text)
    for name, digest in manifest["files"].items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} has changed")
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # before it counts as written; costs nothing when it is on the disk
        return hashlib.file_digest(file, "sha256").hexdigest()


def leaves(tree: Any) -> dict[str, Any]:
    """Every array of a tree under a name that tells its place, type and shape."""
    leaves = jax.tree.leaves_with_path(tree)
    return {f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}": leaf for path, leaf in leaves}


def checksum(array: Any) -> int:
    """CRC32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).data)
