"""Safetensors files: a header in JSON, then nothing but numbers.

The library of that name checks the header. Rows are read here, at the offsets that follow from the header: the
library either maps the file, which takes twice its size in memory, or reads a tensor whole for every slice of it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from cnnjax.errors import UserError
from cnnjax.files import atomic_write
from cnnjax.formats.lazy_tensors import Bytes, Damaged, Refused, Tensor, opened, stored

TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}


@contextmanager
def tensors(path: Path) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Every tensor of a file by its name, and the file's metadata. Raises Damaged if the header is not true."""
    with opened(path) as bytes_:
        try:
            with safe_open(path, framework="numpy") as file:
                yield _located(bytes_, file), file.metadata() or {}
        except SafetensorError as error:
            raise Damaged(str(error).removeprefix("Error while deserializing header: ").splitlines()[0]) from error


def _located(bytes_: Bytes, file: safe_open) -> dict[str, Tensor]:
    """The tensors, one after the other: the library has made sure that there are no gaps."""
    found, offset = {}, 8 + int.from_bytes(bytes_.read(0, 8), "little")
    for name in file.offset_keys():
        entry = file.get_slice(name)
        if entry.get_dtype() not in TYPES:
            raise Refused(f"{name} has the type {entry.get_dtype()}, which networks do not use")
        dtype = np.dtype(TYPES[entry.get_dtype()])
        found[name] = stored(bytes_, name, tuple(entry.get_shape()), dtype, offset)
        offset += found[name].nbytes
    return found


def write(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a file; an interruption leaves the previous one. The same arrays and metadata give the same bytes.

    The order is the library's own: wide types first, then by name. The library writes the metadata in another order
    each time, so the header is made here. Raises UserError for a type that the format lacks, or if the file cannot be
    written.
    """
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise UserError(
                f"{path} is not written: safetensors has no type {array.dtype}, which {name} has: convert it"
            )
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in names:
        array = arrays[name]
        span = [offset, offset := offset + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": span}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of eight

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                file.write(np.asarray(arrays[name], order="C").reshape(-1).view(np.uint8).data)

    atomic_write(path, save)
