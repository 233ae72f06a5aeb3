"""Files that are whole or not there: what is written goes into another first, and is renamed."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnnjax.errors import UserError
from cnnjax.formats.lazy_tensors import BLOCK

TYPES = {"float32": "F32", "float64": "F64", "int32": "I32"}


def whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """`write` a file at another path and put it in its place; an interruption leaves the old one.

    Raises UserError where it can't be written.
    """
    path = Path(path)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        said = error.strerror or str(error).splitlines()[0]
        raise UserError(f"cannot write {path} ({said}): choose a folder that you may write to") from error
    finally:
        partial.unlink(missing_ok=True) if path.parent.is_dir() else None


def safetensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: dict[str, str],
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> None:
    """Write a safetensors file some rows at a time, so that arrays that are turned around take no memory.

    shapes: as which a tensor's numbers are to be read, where that is not the array's own. Raises UserError where the
    file can't be written.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    place = 0
    for name, array in tensors.items():
        kind, shape = TYPES[str(array.dtype)], shapes.get(name, array.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (place, place + array.nbytes)}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in tensors.values():
                step = max(1, BLOCK * len(array) // max(1, array.nbytes))
                for first in range(0, len(array), step):
                    file.write(np.ascontiguousarray(array[first : first + step]).reshape(-1).view(np.uint8).data)

    whole(path, write)
